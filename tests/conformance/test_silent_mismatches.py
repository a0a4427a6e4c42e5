# SPDX-License-Identifier: Apache-2.0
"""What works otherwise than its caller thinks, and warns: decisions 18 and 52 to 56."""

from __future__ import annotations

import contextlib
import socket
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    CacheKeyByIdAndIndex,
    DataType,
    LLMDataDistWarning,
    LLMStatusCode,
    Placement,
    TransferConfig,
)
from llm_datadist._native.engine import Engine
from llm_datadist.testing import Geometry, PeerCache, check, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.engines import Engines
from tests.conformance.layers import WAIT_MS, Ready
from tests.conformance.paths import Path
from tests.conformance.refusals import refused
from tests.conformance.stage import OWNER, PULLER, SMALL, linked
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
WRONG = 555
HIXL = {"llm.TransferBackend": "hixl"}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is warned of: pytest makes a warning an error, here by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", LLMDataDistWarning)
        yield


def two(stage: NearStage, path: Path | None = None, **spec) -> tuple[NearPeer, NearPeer]:
    return stage.engine(OWNER, path, **spec), stage.engine(PULLER, path, **spec)


def link(stage: NearStage, path: Path, puller: NearPeer, owner: NearPeer) -> None:
    linked(puller, owner)
    path.require(puller, owner, stage.process_vm_refused)


def test_what_fits_leaves_no_notice(
    together: NearStage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer that has nothing to say costs no call for what it says."""
    owner, puller = two(together, path)
    source, target = path.cache(owner, "kv", SMALL, 1, 0), path.cache(puller, "kv", SMALL, 2, 0)
    link(together, path, puller, owner)

    def unexpected(engine: Engine, status: int) -> bool:
        raise AssertionError(f"status {status}")

    monkeypatch.setattr(Engine, "only_left_a_notice", unexpected)
    puller.pull("kv", BlocksCacheKey(OWNER, 0), [1], [2])
    check(target, moved(target.filled(), source.filled(), [1], [2]))


@pytest.mark.rule("C10-52", "C7.1-20")
def test_c10_52_a_wrong_id_links_and_the_warning_names_the_real_one(
    together: NearStage, path: Path
) -> None:
    owner, puller = two(together, path)
    source, target = path.cache(owner, "kv", SMALL, 1, 0), path.cache(puller, "kv", SMALL, 2, 0)
    match = rf"remote_cluster_id is {WRONG}, but cluster {OWNER} is there; keys must name {OWNER}"
    with pytest.warns(LLMDataDistWarning, match=match):
        answer = puller.link_to(ClusterAddress(WRONG, owner.listen_address))
    assert answer.statuses == [S.LLM_SUCCESS]
    path.require(puller, owner, together.process_vm_refused)
    with silence():
        with refused(S.LLM_NOT_YET_LINK, WRONG):
            puller.pull("kv", BlocksCacheKey(WRONG, 0), [0], [0])
        puller.pull("kv", BlocksCacheKey(OWNER, 0), [3], [4])
    check(target, moved(target.filled(), source.filled(), [3], [4]))


@pytest.mark.rule("C10-52")
@pytest.mark.parametrize("cluster_id", [OWNER, None], ids=["its id", "no id"])
def test_c10_52_the_right_id_or_none_says_nothing(together: NearStage, cluster_id) -> None:
    owner, puller = two(together)
    with silence():
        answer = puller.link_to(ClusterAddress(cluster_id, owner.listen_address))
        assert answer.statuses == [S.LLM_SUCCESS]
        # A link that was not made surprises nobody.
        refused_again = puller.link_to(ClusterAddress(OWNER, owner.listen_address))
        assert refused_again.statuses == [S.LLM_ALREADY_LINK]


@pytest.mark.rule("C10-52", "C7.1-21", "C10-49")
def test_c10_52_the_own_id_warns(together: NearStage) -> None:
    peer = together.engine(OWNER)
    peer.register("kv", SMALL, 1, 0)
    with pytest.warns(LLMDataDistWarning, match=f"cluster {OWNER} is the own cluster id"):
        linked(peer, peer)
    with silence(), refused(S.LLM_PARAM_INVALID, OWNER):
        peer.pull("kv", BlocksCacheKey(OWNER, 0), [0], [0])


@pytest.mark.rule("C10-52", "C7.3-4")
def test_c10_52_one_way_links_go_by_the_id_given(together: NearStage) -> None:
    owner, puller = two(together, options=HIXL)
    with silence():
        answer = puller.link_to(ClusterAddress(WRONG, owner.listen_address))
    assert answer.statuses == [S.LLM_SUCCESS]
    other = together.engine(3, options=HIXL)
    with pytest.warns(LLMDataDistWarning, match="cluster 3 is the own cluster id"):
        other.link_to(ClusterAddress(3, owner.listen_address))


@pytest.mark.rule("C10-53")
@pytest.mark.parametrize(
    ("wildcard", "listen"), [("0.0.0.0", "127.0.0.1:0"), ("::", "[::1]:0"), ("0::0", "[::1]:0")]
)
def test_c10_53_a_wildcard_address_reaches_this_host_and_warns(
    together: NearStage, wildcard: str, listen: str
) -> None:
    owner, puller = together.engine(OWNER, listen=listen), together.engine(PULLER, listen=None)
    _, port = owner.listen_address
    with pytest.warns(LLMDataDistWarning, match="the address of no host"):
        answer = puller.link_to(ClusterAddress(OWNER, (wildcard, port)))
    assert answer.statuses == [S.LLM_SUCCESS]


@pytest.mark.rule("C10-53")
def test_c10_53_it_warns_where_nobody_listens_too(together: NearStage) -> None:
    puller = together.engine(PULLER, listen=None)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.warns(LLMDataDistWarning, match="the address of no host"):
            answer = puller.link_to(ClusterAddress(OWNER, ("0.0.0.0", bound.getsockname()[1])))
    assert answer.statuses == [S.LLM_LINK_FAILED]


@pytest.mark.rule("C10-18")
def test_c10_18_the_batch_dimension_of_paged_caches_says_nothing(
    engines: Engines, path: Path
) -> None:
    engine, _ = engines.two(path)
    desc = CacheDesc(1, [4, 256], DataType.DT_INT8, batch_dim_index=1)
    with silence():
        engine.manager.register_blocks_cache(desc, engine.addresses(desc))
        plain = CacheDesc(1, [4, 256], DataType.DT_INT8)
        engine.manager.register_cache(plain, engine.addresses(plain))
    for _ in range(2):
        # Each cache that is made, not each description.
        with pytest.warns(LLMDataDistWarning, match="batch_dim_index 1"):
            engine.manager.register_cache(desc, engine.addresses(desc))


class OfBf16(Geometry):
    """The same bytes, described by other elements."""

    def desc(self, placement: Placement = Placement.DEVICE) -> CacheDesc:
        shape = [self.num_blocks, self.block_bytes // 2]
        return CacheDesc(self.num_tensors, shape, DataType.DT_BF16, placement)


@pytest.mark.rule("C10-54")
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
@pytest.mark.parametrize("form", ["numpy", "list", "long"])
def test_c10_54_other_element_types_warn_once_per_link_and_pair(
    together: NearStage, path: Path, one_sided: bool, form: str
) -> None:
    owner, puller = two(together, path, one_sided=one_sided)
    source = path.cache(owner, "kv", OfBf16(), 1, 0)
    target, same = (path.cache(puller, name, SMALL, 2) for name in ("kv", "again"))
    link(together, path, puller, owner)
    blocks = {"numpy": np.array([3]), "list": [3], "long": [3, 4, 5, 6] * 40}[form]

    def pull(name: str) -> None:
        puller.manager.pull_blocks(BlocksCacheKey(OWNER, 0), puller.cache(name), blocks, blocks)

    numbers = f"data_type {DataType.DT_FLOAT16.value}, .* {DataType.DT_BF16.value}:"
    for name, held in (("kv", target), ("again", same)):
        with pytest.warns(LLMDataDistWarning, match=numbers) as caught:
            pull(name)
        assert len(caught) == 1
        with silence():
            pull(name)
        check(held, moved(held.filled(), source.filled(), list(blocks), list(blocks)))
    # Another link is told anew.
    assert puller.unlink(owner) == S.LLM_SUCCESS
    linked(puller, owner)
    with pytest.warns(LLMDataDistWarning, match=numbers):
        pull("kv")


@pytest.mark.rule("C10-54", "C10-55")
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "not checked"])
def test_c10_54_c10_55_pushes_warn_too(
    together: NearStage, path: Path, monkeypatch, checked: bool
) -> None:
    monkeypatch.setenv("LLM_DATADIST_CHECK", str(int(checked)))
    owner, pusher = two(together, path)
    path.cache(owner, "kv", OfBf16(), 1, 0)
    path.cache(pusher, "kv", SMALL, 2)
    link(together, path, pusher, owner)
    expected = ["data_type", "block 5 more than once"][: 1 + checked]
    with pytest.warns(LLMDataDistWarning) as caught:
        pusher.push("kv", BlocksCacheKey(OWNER, 0), [1, 2], [5, 5])
    assert len(caught) == len(expected)
    assert all(text in str(each.message) for text, each in zip(expected, caught))
    with silence():
        pusher.push("kv", BlocksCacheKey(OWNER, 0), [1, 2], [5, 5])


@pytest.mark.rule("C10-54")
def test_c10_54_addresses_tell_the_type_that_lies_there(together: NearStage, path: Path) -> None:
    owner, sender = two(together, path, one_sided=False)
    wide = Geometry(data_type=DataType.DT_FLOAT)
    others = [path.cache(owner, f"other {i}", wide, i) for i in (1, 2)]
    alike = path.cache(owner, "alike", SMALL, 3)
    source = path.cache(sender, "kv", SMALL, 4)
    link(together, path, sender, owner)

    def send(destination: PeerCache) -> None:
        config = TransferConfig(OWNER, list(destination.tensor_addrs), range(2))
        task = sender.manager.transfer_cache_async(sender.cache("kv"), Ready(), [config], [3], [4])
        assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS
        check(destination, moved(destination.filled(), source.filled(), [3], [4]))

    with silence():
        send(alike)
    numbers = f"{DataType.DT_FLOAT16.value}, .*addresses.* {DataType.DT_FLOAT.value}:"
    with pytest.warns(LLMDataDistWarning, match=numbers) as caught:
        send(others[0])
    assert len(caught) == 1
    with silence():
        send(others[1])


@pytest.mark.rule("C10-54")
def test_c10_54_where_caches_of_two_types_share_memory_nothing_is_said(
    together: NearStage, registered_path: Path
) -> None:
    owner, sender = two(together, registered_path, one_sided=False)
    there = owner.register("kv", SMALL, 1)
    wide = Geometry(data_type=DataType.DT_FLOAT).desc()
    again = owner.manager.register_cache(wide, list(there.tensor_addrs))
    sender.register("kv", SMALL, 2)
    link(together, registered_path, sender, owner)

    def send() -> None:
        config = TransferConfig(OWNER, list(there.tensor_addrs), range(2))
        task = sender.manager.transfer_cache_async(sender.cache("kv"), Ready(), [config], [3], [4])
        assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS

    with silence():
        send()
    owner.manager.unregister_cache(again.cache_id)


def shaped(*block_shape: int, **changes: int) -> Geometry:
    return Geometry(block_shape=block_shape, **changes)


@pytest.mark.rule("C10-56")
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "not checked"])
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_c10_56_other_dimensions_warn_where_that_was_asked_for(
    together: NearStage, path: Path, monkeypatch, checked: bool, one_sided: bool
) -> None:
    monkeypatch.setenv("LLM_DATADIST_CHECK", str(int(checked)))
    owner, puller = two(together, path, one_sided=one_sided)
    source = path.cache(owner, "kv", shaped(4, 64), 1, 0)
    target = path.cache(puller, "kv", shaped(64, 4), 2)
    # The first dimension is a number of blocks, which each end chooses.
    path.cache(puller, "fewer", shaped(4, 64, num_blocks=8), 3)
    link(together, path, puller, owner)
    key = BlocksCacheKey(OWNER, 0)
    with silence():
        puller.pull("fewer", key, [3], [4])
        if not checked:
            puller.pull("kv", key, [3], [4])
    if checked:
        shapes = r"shape \[16, 64, 4\], cache .* has \[16, 4, 64\]:"
        with pytest.warns(LLMDataDistWarning, match=shapes) as caught:
            puller.pull("kv", key, [3], [4])
        assert len(caught) == 1
        with silence():
            puller.pull("kv", key, [3], [4])
    check(target, moved(target.filled(), source.filled(), [3], [4]))


@pytest.mark.rule("C10-56")
def test_c10_56_a_push_warns_and_another_layout_does_not(
    together: NearStage, path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("LLM_DATADIST_CHECK", "1")
    owner, pusher = two(together, path)
    path.cache(owner, "kv", shaped(4, 64), 1, 0)
    path.cache(pusher, "kv", shaped(256), 2)
    entries = together.contiguous(owner, path, "entries", shaped(64, 4), 3)
    link(together, path, pusher, owner)
    with silence():
        entry = CacheKeyByIdAndIndex(OWNER, entries.cache_id, 0)
        pusher.pull("kv", entry, [], [5])
    with pytest.warns(LLMDataDistWarning, match=r"\[16, 256\], .* \[16, 4, 64\]:") as caught:
        pusher.push("kv", BlocksCacheKey(OWNER, 0), [1, 2], [5, 6])
    assert len(caught) == 1


@pytest.mark.rule("C10-55")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLM_DATADIST_CHECK", "1"),
        ("LLM_DATADIST_STRICT_HARDWARE", "1"),
        ("LLM_DATADIST_CHECK", "0"),
    ],
)
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_c10_55_a_block_that_is_written_twice_warns_where_that_was_asked_for(
    together: NearStage, path: Path, monkeypatch, variable: str, value: str, one_sided: bool
) -> None:
    monkeypatch.setenv(variable, value)
    owner, puller = two(together, path, one_sided=one_sided)
    path.cache(owner, "kv", SMALL, 1, 0)
    path.cache(puller, "kv", SMALL, 2)
    link(together, path, puller, owner)
    key = BlocksCacheKey(OWNER, 0)
    with silence():
        puller.pull("kv", key, [1, 2, 3, 3], [6, 7, 5, 9])
        if value == "0":
            puller.pull("kv", key, [1, 2, 3], [6, 7, 7])
    if value == "1":
        with pytest.warns(LLMDataDistWarning, match="block 7 more than once"):
            puller.pull("kv", key, [1, 2, 3], [6, 7, 7])
        with silence():
            puller.pull("kv", key, [1, 2, 3], [6, 7, 7])
