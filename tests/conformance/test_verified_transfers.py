# SPDX-License-Identifier: Apache-2.0
"""LLM_DATADIST_VERIFY: the checksums of both sides of a transfer are compared, each summed by the
end whose memory it is (contract 10, decision 86).
"""

from __future__ import annotations

import errno
import platform
import struct

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, CacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, PeerCache, check, eventually, faults, moved
from llm_datadist.testing.pattern import Words
from tests.conformance.engines import Engines
from tests.conformance.paths import ON_ASCEND, Path, helped_path
from tests.conformance.refusals import check_refusal, refused
from tests.conformance.speaker import Request, Speaker, texts_of
from tests.conformance.stage import OWNER, PULLER, SMALL, Pair, Stage, linked
from tests.conformance.test_async_transfer import ENTRIES
from tests.conformance.test_async_transfer import Pair as Senders
from tests.conformance.test_control_messages import recorded
from tests.conformance.test_refused_process_vm import PROCESS_VM_CALLS, have_the_kernel_refuse
from tests.conformance.together import NearPeer, NearStage
from tests.conformance.xxh64 import xxh64

S = LLMStatusCode
VERIFY = "LLM_DATADIST_VERIFY"
ON = {VERIFY: "1"}
KEY = BlocksCacheKey(OWNER, 0)
GEOMETRY = Geometry(num_tensors=4, num_blocks=8, block_bytes=4096)
SRC, DST = [1, 2, 5], [3, 0, 7]
SUMS = 12


def verified(stage: Stage, path: Path, geometry: Geometry = GEOMETRY, **spec: int) -> Pair:
    return stage.pair(path, geometry, environment=ON, sync_timeout_ms=20000, **spec)


def byte_of(tensor: int, place: int) -> int:
    """The number of a byte of the block at that place of the lists."""
    return (tensor * len(SRC) + place) * GEOMETRY.block_bytes + 6


def check_one_bit(cache: PeerCache, expected: Words, tensor: int, block: int) -> None:
    """One bit of that block is wrong, and nothing else."""
    wrong = cache.read() ^ expected
    assert np.unpackbits(wrong.view(np.uint8)).sum() == 1
    assert wrong[tensor, block].any()


@pytest.mark.sanitize
@pytest.mark.rule("C10-230", "C10-231")
@pytest.mark.parametrize("operation", ["pull", "push"])
def test_a_changed_byte_is_found_and_named(stage: Stage, path: Path, operation: str) -> None:
    pair = verified(stage, path)
    pulls = operation == "pull"
    source, target = (pair.source, pair.target) if pulls else (pair.target, pair.source)
    expected = moved(target.filled(), source.filled(), SRC, DST)
    call = getattr(pair.puller, operation)
    call("kv", KEY, SRC, DST)
    check(target, expected)
    own = (DST if pulls else SRC)[1]
    here = pair.target.tensor_addrs[1] + own * GEOMETRY.block_bytes
    there = pair.source.tensor_addrs[1] + (SRC if pulls else DST)[1] * GEOMETRY.block_bytes
    # A push is made layer by layer: tensor 1 is the second of its call.
    with pair.puller.faults.inject(f"read,write corrupt={byte_of(1, 1)} times=1"):
        error = pair.puller.start_call(operation, "kv", KEY, SRC, DST).exception()
    check_refusal(error, S.LLM_FAILED, VERIFY, f"cluster {OWNER}", GEOMETRY.block_bytes)
    check_refusal(error, S.LLM_FAILED, f"layer 0, tensor 1, block {own}", f"0x{here:x}")
    right = xxh64(source.filled()[1, SRC[1]].tobytes())
    check_refusal(error, S.LLM_FAILED, f"0x{there:x}", f"{right:016x}")
    check_one_bit(target, expected, 1, DST[1])
    call("kv", KEY, SRC, DST)
    check(target, expected)


@pytest.mark.rule("C10-232")
def test_nothing_is_compared_unless_it_is_asked_for(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, GEOMETRY, environment={VERIFY: "0"})
    with pair.puller.faults.inject(f"read corrupt={byte_of(2, 1)}"):
        pair.puller.pull("kv", KEY, SRC, DST)
    expected = moved(pair.target.filled(), pair.source.filled(), SRC, DST)
    check_one_bit(pair.target, expected, 2, DST[1])


@pytest.mark.rule("C10-230")
def test_a_block_that_is_written_twice_is_left_out(stage: Stage, path: Path) -> None:
    pair = verified(stage, path)
    pair.puller.pull("kv", KEY, [1, 2, 4], [3, 3, 5])
    with pair.puller.faults.inject(f"read corrupt={2 * GEOMETRY.block_bytes + 1}"):
        error = pair.puller.start_call("pull", "kv", KEY, [1, 2, 4], [3, 3, 5]).exception()
    check_refusal(error, S.LLM_FAILED, VERIFY, "tensor 0, block 5")


@pytest.mark.rule("C10-230")
@pytest.mark.parametrize(
    ("geometry", "piece"),
    [
        (Geometry(num_tensors=2, num_blocks=2500, block_bytes=1024), 1024),
        (Geometry(num_tensors=2, num_blocks=1, block_bytes=10 << 20), 2 << 20),
    ],
    ids=["many runs", "long runs"],
)
def test_what_does_not_fit_one_message(stage: Stage, geometry: Geometry, piece: int) -> None:
    """4096 blocks, or 16 MiB, are a message; the last byte is in a later one."""
    pair = verified(stage, helped_path(), geometry)
    blocks = list(range(geometry.num_blocks))
    there = blocks[::-1]
    last = geometry.num_tensors * geometry.num_blocks * geometry.block_bytes
    pair.puller.pull("kv", KEY, blocks, there)
    with pair.puller.faults.inject(f"read corrupt={last}"):
        error = pair.puller.start_call("pull", "kv", KEY, blocks, there).exception()
    check_refusal(error, S.LLM_FAILED, f"layer 0, tensor 1, block {there[-1]}", piece)


@pytest.mark.rule("C10-233")
def test_a_peer_that_does_not_sum_is_a_timeout(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, GEOMETRY, environment=ON, sync_timeout_ms=1000)
    pair.puller.pull("kv", KEY, [0], [0])
    pair.owner.stop()
    error = pair.puller.start_call("pull", "kv", KEY, [1], [1]).exception()
    says = () if path.needs_the_peer else ("everything was moved", "were not compared")
    check_refusal(error, S.LLM_TIMEOUT, OWNER, "1000 ms (sync_kv_timeout)", *says)
    pair.owner.go_on()
    pair.puller.pull("kv", KEY, [2], [2])


@pytest.mark.rule("C10-230", "C10-231")
def test_a_pull_in_request_mode_keeps_its_key(
    engines: Engines, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFY, "1")
    owner, puller = engines.two(path, one_sided=False)
    key = CacheKey(OWNER, 1)
    there = owner.contiguous(keys=[key])
    here = puller.contiguous()
    engines.link(puller, owner)
    with (
        faults.inject(f"read corrupt={there.first.shape[2] + 9}"),
        refused(S.LLM_FAILED, VERIFY, "layer 0, tensor 1, batch entry 2", f"cluster {OWNER}"),
    ):
        puller.manager.pull_cache(key, here.cache, 2)
    puller.manager.pull_cache(key, here.cache, 2)
    assert np.array_equal(here.now[:, 2], there.first[:, 0])


@pytest.mark.rule("C10-230", "C10-231")
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_layers_that_are_sent(
    together: NearStage, path: Path, one_sided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFY, "1")
    pair = Senders(together, path, one_sided)
    destination, source = pair.destination(ENTRIES, False), pair.source(ENTRIES, False)
    pair.sent(destination, batch=3, dst_batch=1)
    check(destination, moved(destination.filled(), source.filled(), [3], [1]))
    with faults.inject(f"write corrupt={ENTRIES.block_bytes + 1} after=1 times=1"):
        task = pair.send(destination, batch=3, dst_batch=1)
        assert S.LLM_FAILED in task.get_results(30_000)
    check_refusal(task.exception(), S.LLM_FAILED, VERIFY, "layer 1, tensor 3, batch entry 3")


@pytest.mark.rule("C10-230")
def test_where_the_kernel_refuses_process_vm(stage: Stage) -> None:
    """Both ends look up what is mapped instead."""
    if platform.machine() not in PROCESS_VM_CALLS:
        pytest.skip("capability system call numbers: of x86-64 and aarch64 alone")
    owner = stage.process_of_its_own()
    puller = stage.process_of_its_own()
    for peer in (owner, puller):
        peer.call(have_the_kernel_refuse, errno.EPERM)
    path = helped_path()
    stage.engine(OWNER, path, process=owner, environment=ON)
    stage.engine(PULLER, path, process=puller, listen=None, environment=ON)
    source, target = path.cache(owner, "kv", GEOMETRY, 1, 0), path.cache(puller, "kv", GEOMETRY, 2)
    linked(puller, owner)
    puller.pull("kv", KEY, SRC, DST)
    check(target, moved(target.filled(), source.filled(), SRC, DST))
    with puller.faults.inject(f"read corrupt={byte_of(1, 1)}"):
        error = puller.start_call("pull", "kv", KEY, SRC, DST).exception()
    check_refusal(error, S.LLM_FAILED, VERIFY, "layer 0, tensor 1, block 0")


@pytest.mark.rule("C10-234")
def test_a_peer_learns_sums_of_what_it_may_reach_only(together: NearStage) -> None:
    owner: NearPeer = together.engine(OWNER)
    kv = owner.register("kv", SMALL, 1, 0)
    size = SMALL.num_blocks * SMALL.block_bytes
    with Speaker(owner.listen_address, Request.spoken_in(recorded(together, owner)[0])) as speaker:
        speaker.link()
        late = owner.register("late", SMALL, 2)

        def sums(*ranges: tuple[int, int]) -> tuple[int, list[int]] | None:
            body = struct.pack("<I", len(ranges)) + b"".join(
                struct.pack("<QQ", *each) for each in ranges
            )
            answer = speaker.ask(SUMS, body)
            if answer is None:
                return None
            status = answer[4 : 4 + struct.unpack_from("<I", answer)[0]]
            values = answer[4 + len(status) :]
            code = struct.unpack_from("<I", status)[0]
            assert bool(texts_of(status[4:])[0]) == (code != 0)
            return code, list(struct.unpack(f"<{(len(values) - 4) // 8}Q", values[4:]))

        first, second = kv.tensor_addrs[:2]
        content = [tensor.tobytes() for tensor in kv.filled()]
        assert sums((first, size), (second + 3, 70)) == (
            0,
            [xxh64(content[0]), xxh64(content[1][3:73])],
        )
        for bad in [(first - 1, 2), (first, size + 1), (late.tensor_addrs[0], 1), (1, 1)]:
            assert sums((first, 1), bad) == (S.LLM_FAILED, [])
        owner.call("unregister", "kv")
        assert sums((first, 1)) == (S.LLM_FAILED, [])
        # No peer asks for so much at once, for nothing, or past the end of the addresses.
        assert sums(*[(first, 9 << 20)] * 2) is None
        eventually(lambda: owner.call("links")[0].state.name == "PEER_GONE", "it is noticed")


@pytest.mark.rule("C10-235")
def test_init_says_what_the_variable_may_be(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFY, "yes")
    with refused(S.LLM_PARAM_INVALID, VERIFY, "yes", "0 or 1"):
        engines.open(OWNER)
    monkeypatch.setenv(VERIFY, "1")
    if ON_ASCEND:
        with refused(S.LLM_FEATURE_NOT_ENABLED, VERIFY, "does not read memory for checksums"):
            engines.open(OWNER)
    else:
        engines.open(OWNER)
