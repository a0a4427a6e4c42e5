# SPDX-License-Identifier: Apache-2.0
"""A client whose link another one with its cluster id has taken: both ends learn of it at once."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.introspection import LinkState
from llm_datadist.testing import eventually
from tests.conformance.paths import helped_path
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked, links_of
from tests.conformance.test_statistics import linked_speaker, request_of_a_client

REPLACED = 19


def take_notices(actor: Any) -> list[str]:
    notices: list[str] = actor.datadist._open_engine().take_notices()
    return notices


@pytest.mark.rule("C10-271")
@pytest.mark.sanitize
def test_both_ends_learn_of_it(stage: Stage) -> None:
    path = helped_path()
    owner = stage.engine(OWNER, path)
    first, second = (stage.engine(PULLER, path, listen=None) for _ in range(2))
    owner.register("kv", SMALL, 1, 0)
    first.register("kv", SMALL, 2)
    linked(first, owner)
    linked(second, owner)
    eventually(lambda: links_of(first) == {OWNER: LinkState.PEER_GONE}, "the link is replaced")
    error: Any = first.start_call("pull", "kv", BlocksCacheKey(OWNER, 0), [1], [1]).exception()
    assert error.status_code == LLMStatusCode.LLM_TIMEOUT
    assert "; replaced by a link from 127.0.0.1:" in str(error)
    assert "whose client uses the cluster id of this one" in str(error)
    (here,) = first.call(take_notices)
    assert f"another client uses cluster id {PULLER}, too" in here
    (there,) = owner.call(take_notices)
    assert f"a new link from cluster {PULLER}" in there
    assert "replaced a live one" in there


@pytest.mark.rule("C10-271")
def test_a_peer_that_says_so_without_an_address(stage: Stage) -> None:
    owner = stage.engine(OWNER, helped_path())
    request = request_of_a_client(stage, owner)
    for said in (b"", b"a" * 65, b"nobody\n", struct.pack("<I", 1)):
        with linked_speaker(owner, request) as speaker:
            speaker.say(REPLACED, said)
            assert speaker.answers_until_closed()
    assert owner.call(take_notices) == []
