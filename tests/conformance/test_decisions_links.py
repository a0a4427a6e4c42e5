# SPDX-License-Identifier: Apache-2.0
"""Decisions of chapter 10 that take two engines: what descriptions mean, several engines in a
process, IPv6, comm resources and the auth token.
"""

from __future__ import annotations

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LLMClusterInfo,
    LLMDataDist,
    LLMDataDistWarning,
    LLMStatusCode,
)
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import check, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.engines import EngineHere, Engines, Held, blocks_of, by_id, by_request
from tests.conformance.paths import Path
from tests.conformance.refusals import refused
from tests.conformance.stage import OWNER, PULLER, SMALL, linked
from tests.conformance.together import NearStage

S = LLMStatusCode


def oddly_described(engine: EngineHere, keys=()) -> Held:
    """Four entries of 256 bytes by shape[0], though the description names other dimensions."""
    desc = CacheDesc(
        4,
        [4, 256],
        DataType.DT_INT8,
        batch_dim_index=1,
        seq_len_dim_index=0,
        kv_tensor_format="BNSD",
    )

    def make() -> Cache:
        if engine.memory is MemoryKind.ALLOCATED:
            return engine.manager.allocate_cache(desc, keys)
        return engine.manager.register_cache(desc, engine.addresses(desc), keys)

    with pytest.warns(LLMDataDistWarning, match=r"batch_dim_index 1.*shape\[0\], 4"):
        return engine.held(make())


@pytest.mark.rule("C10-18")
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_c10_18_only_the_first_dimension_counts(
    engines: Engines, path: Path, one_sided: bool
) -> None:
    owner, puller = engines.two(path, one_sided)
    source = oddly_described(owner, [by_request(1), by_request(2)])
    plain, odd = puller.contiguous(), oddly_described(puller)
    engines.link(puller, owner)
    key = by_id(source, 1) if one_sided else by_request(2)
    for target in (plain, odd):
        puller.manager.pull_cache(by_id(source, 3), target.cache, batch_index=2)
        expected = target.first.copy()
        expected[:, 2] = source.first[:, 3]
        assert np.array_equal(target.now, expected)
        with refused(S.LLM_PARAM_INVALID, "4 batch entries"):
            puller.manager.pull_cache(key, target.cache, batch_index=4)
    puller.manager.pull_cache(key, odd.cache, batch_index=0)
    assert np.array_equal(odd.now[:, 0], source.first[:, 1])


@pytest.mark.rule("C10-21")
def test_c10_21_an_unset_id_is_learnt_and_read_from_the_info(engines: Engines) -> None:
    owner, puller = engines.two()
    source, target = owner.paged(model_id=0), puller.paged()
    info = LLMClusterInfo()
    info.append_local_ip_info("127.0.0.1", 0)
    info.append_remote_ip_info(*owner.datadist.listen_address)
    assert info.remote_cluster_id is None
    assert puller.datadist.link_clusters([info]) == (S.LLM_SUCCESS, [S.LLM_SUCCESS])
    assert info.remote_cluster_id == OWNER
    puller.manager.pull_blocks(blocks_of(), target.cache, [1], [2])
    assert np.array_equal(target.now[:, 2], source.first[:, 1])
    # With the id that it learnt the same object serves to unlink.
    assert puller.datadist.unlink_clusters([info]) == (S.LLM_SUCCESS, [S.LLM_SUCCESS])
    assert puller.datadist.links() == owner.datadist.links() == []


@pytest.mark.rule("C10-21")
def test_c10_21_without_an_address_there_is_nothing_to_learn_it_from(engines: Engines) -> None:
    info = LLMClusterInfo()
    info.append_local_ip_info("127.0.0.1", 0)
    with pytest.raises(TypeError, match="remote_cluster_id"):
        engines.open(1).datadist.link_clusters([info])


@pytest.mark.rule("C10-22")
@pytest.mark.parametrize("text", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
def test_c10_22_listening_and_linking_over_ipv6(together: NearStage, path: Path, text: str) -> None:
    owner = together.engine(OWNER, path, listen="[::1]:0")
    puller = together.engine(PULLER, path, listen=None)
    source = path.cache(owner, "kv", SMALL, 1, 0)
    target = path.cache(puller, "kv", SMALL, 2)
    ip, port = owner.listen_address
    assert ip == "::1"
    info = LLMClusterInfo()
    info.remote_cluster_id = OWNER
    info.append_local_ip_info(text, 0)
    info.append_remote_ip_info(text, port)
    assert puller.datadist.link_clusters([info]) == (S.LLM_SUCCESS, [S.LLM_SUCCESS])
    (link,) = puller.datadist.links()
    assert link.peer_address == f"[::1]:{port}"
    puller.pull("kv", BlocksCacheKey(OWNER, 0), [3], [4])
    check(target, moved(target.filled(), source.filled(), [3], [4]))
    assert puller.datadist.unlink_clusters([info]) == (S.LLM_SUCCESS, [S.LLM_SUCCESS])


@pytest.mark.rule("C10-23")
def test_c10_23_several_engines_of_a_process_share_nothing(engines: Engines, path: Path) -> None:
    first, second, third = (engines.open(cluster, path) for cluster in (1, 2, 3))
    held = [each.paged(model_id=0) for each in (first, second, third)]
    # Ids, keys and links are each engine's own.
    assert [each.id for each in held] == [1, 1, 1]
    engines.link(second, first)
    engines.link(third, first)
    for engine, peers in ((first, {2, 3}), (second, {1}), (third, {1})):
        assert {link.peer_cluster_id for link in engine.datadist.links()} == peers
    with refused(S.LLM_NOT_YET_LINK, 3):
        second.manager.pull_blocks(BlocksCacheKey(3, 0), held[1].cache, [0], [0])
    for target, engine in zip(held[1:], (second, third)):
        engine.manager.pull_blocks(BlocksCacheKey(1, 0), target.cache, [5], [6])
        assert np.array_equal(target.now[:, 6], held[0].first[:, 5])
    # One that ends leaves the others as they are.
    second.datadist.finalize()
    assert LLMDataDist.llm_engine_instance in (first.datadist, third.datadist)
    third.manager.pull_blocks(BlocksCacheKey(1, 0), held[2].cache, [7], [8])
    assert np.array_equal(held[2].now[:, 8], held[0].first[:, 7])


COMM_RES = '{"version": "1.3", "net_instance_id": "x", "endpoint_list": []}'


@pytest.mark.rule("C10-25")
# Of HIXL 8.5, which does not know it.
@pytest.mark.filterwarnings("ignore:local_comm_res has no effect")
@pytest.mark.parametrize("backend", [None, "hixl"])
def test_c10_25_version_1_3_of_the_comm_resource_is_accepted(
    together: NearStage, path: Path, backend: str | None
) -> None:
    options = {"llm.LocalCommRes": COMM_RES}
    if backend is not None:
        options["llm.TransferBackend"] = backend
    owner, puller = (together.engine(each, path, options=options) for each in (OWNER, PULLER))
    source = path.cache(owner, "kv", SMALL, 1, 0)
    target = path.cache(puller, "kv", SMALL, 2)
    linked(puller, owner)
    puller.pull("kv", BlocksCacheKey(OWNER, 0), [3], [4])
    check(target, moved(target.filled(), source.filled(), [3], [4]))


@pytest.mark.rule("C10-34")
def test_c10_34_an_id_alone_on_either_end(together: NearStage) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    for one, other_id in ((owner, PULLER), (puller, OWNER)):
        linked(puller, owner)
        alone = ClusterAddress(other_id)
        assert one.unlink_from(alone).status == S.LLM_PARAM_INVALID
        assert one.unlink_from(alone, force=True).status == S.LLM_SUCCESS
        assert one.call("links") == []
        for each in (owner, puller):
            each.unlink(puller if each is owner else owner, force=True)


def with_token(stage: NearStage, cluster: int, token: str | None, path: Path | None = None):
    options = {} if token is None else {"lldd.AuthToken": token}
    return stage.engine(cluster, path, options=options)


@pytest.mark.rule("C10-41")
def test_c10_41_ends_with_the_same_token_link(together: NearStage, path: Path) -> None:
    owner = with_token(together, OWNER, "s3cret", path)
    puller = with_token(together, PULLER, "s3cret", path)
    source = path.cache(owner, "kv", SMALL, 1, 0)
    target = path.cache(puller, "kv", SMALL, 2)
    linked(puller, owner)
    path.require(puller, owner, together.process_vm_refused)
    puller.pull("kv", BlocksCacheKey(OWNER, 0), [3], [4])
    check(target, moved(target.filled(), source.filled(), [3], [4]))


@pytest.mark.rule("C10-41")
@pytest.mark.parametrize(
    ("at_owner", "at_puller"),
    [("s3cret", None), (None, "s3cret"), ("s3cret", "s3creT"), ("s3cret", "s3cret ")],
)
def test_c10_41_a_wrong_or_missing_token_is_refused(
    together: NearStage, at_owner: str | None, at_puller: str | None
) -> None:
    owner = with_token(together, OWNER, at_owner)
    puller = with_token(together, PULLER, at_puller)
    for one, other in ((puller, owner), (owner, puller)):
        answer = one.link_to(other.cluster(), timeout_ms=5000)
        assert answer.statuses == [S.LLM_LINK_FAILED]
        assert "token" in answer.details[0]
        assert "s3cret" not in answer.details[0].lower()
        assert one.call("links") == other.call("links") == []
    # Neither is the worse for it.
    friend = with_token(together, 33, at_owner)
    linked(friend, owner)
