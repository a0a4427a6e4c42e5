# SPDX-License-Identifier: Apache-2.0
"""A warning in the process of a peer fails the test that has not asked for it."""

from __future__ import annotations

import pytest

from llm_datadist import LLMDataDistWarning
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.stage import OWNER, PULLER, Stage, allow_warnings

WRONG = 555


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "of its own"])
def test_a_warning_in_a_peer_is_an_error_there(stage: Stage, warm: bool) -> None:
    owner = stage.engine(OWNER)
    process = stage.process() if warm else stage.process_of_its_own()
    puller = stage.engine(PULLER, listen=None, process=process)
    with pytest.raises(LLMDataDistWarning, match=f"remote_cluster_id is {WRONG}"):
        puller.link_to(ClusterAddress(WRONG, owner.listen_address))


def test_one_that_was_asked_for_is_none(stage: Stage) -> None:
    owner, puller = stage.engine(OWNER), stage.engine(PULLER, listen=None)
    puller.call(allow_warnings)
    assert puller.link_to(ClusterAddress(WRONG, owner.listen_address)).status == 0
