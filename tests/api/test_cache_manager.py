# SPDX-License-Identifier: Apache-2.0
"""CacheManager over a mocked library: contract 1.10 and chapters 4 to 6."""

from __future__ import annotations

import sys
import threading
from array import array

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMDataDistWarning,
    LLMException,
    LLMStatusCode,
    MemInfo,
    Memtype,
    Placement,
)
from tests.conformance.tensors import ForeignTensor

S = LLMStatusCode
UNSET = 2**64 - 1
DESC = CacheDesc(4, [8, 16], DataType.DT_INT8)
HOST_DESC = CacheDesc(4, [8, 16], DataType.DT_INT8, Placement.HOST)
BLOCKS = Cache(5, DESC, [1, 2, 3, 4], True)
CONTIGUOUS = Cache(6, DESC, [1, 2, 3, 4], False)
KEY = BlocksCacheKey(9, 2)
BY_ID = CacheKeyByIdAndIndex(9, 3, 1)


def assert_invalid(call, text=None):
    with pytest.raises(LLMException, match=text) as caught:
        call()
    assert caught.value.status_code is S.LLM_PARAM_INVALID


# LLDD_ALL_LAYERS.
ALL = 0xFFFFFFFF


def give_notice(native, text):
    """Let the engine have one notice for the client."""
    notices = [text.encode()]

    def write(engine, chars, size, length):
        notice = notices.pop() if notices else b""
        native.ffi.memmove(chars, notice + b"\0", len(notice) + 1)
        length[0] = len(notice)

    native.on("engine_next_notice", write)


class TestAllocate:
    def give(self, native):
        def allocate(engine, desc, keys, num_keys, cache_id, addrs):
            cache_id[0] = 7
            for index in range(desc.num_tensors):
                addrs[index] = 2**63 + index

        native.on("cache_allocate", allocate)

    @pytest.mark.rule("C1.9-1", "C1.10-3")
    def test_contiguous(self, native, manager):
        self.give(native)
        keys = (CacheKey(1, 2, 3), CacheKey(1, UNSET, 4, 5))
        cache = manager.allocate_cache(DESC, keys)
        assert (cache.cache_id, cache.is_blocks_cache) == (7, False)
        assert cache.tensor_addrs == [2**63 + index for index in range(4)]
        assert cache.cache_desc is DESC
        _, desc, sent_keys, count, _, _ = native.last("cache_allocate")
        assert (desc["num_tensors"], desc["layout"], desc["placement"]) == (4, 0, 1)
        assert (desc["data_type"], desc["dims"]) == (2, [8, 16])
        assert count == 2
        assert [(k["kind"], k["req_id"], k["model_id"], k["prefix_id"]) for k in sent_keys] == [
            (1, 2, 3, UNSET),
            (1, UNSET, 4, 5),
        ]

    @pytest.mark.rule("C1.10-4")
    def test_blocks(self, native, manager):
        self.give(native)
        assert manager.allocate_blocks_cache(HOST_DESC, KEY).is_blocks_cache
        _, desc, keys, count, _, _ = native.last("cache_allocate")
        assert (desc["layout"], desc["placement"], count) == (1, 0, 1)
        assert (keys[0]["kind"], keys[0]["model_id"]) == (3, 2)
        manager.allocate_blocks_cache(DESC)
        assert native.last("cache_allocate")[2:4] == (None, 0)

    def test_optional_keys(self, native, manager):
        self.give(native)
        manager.allocate_cache(DESC, None)
        assert native.last("cache_allocate")[3] == 0

    @pytest.mark.rule("C1.2-1", "C1.10-3", "C1.10-4")
    def test_types(self, manager):
        for call in (
            lambda: manager.allocate_cache(None),
            lambda: manager.allocate_cache(DESC, CacheKey(1, 2)),
            lambda: manager.allocate_cache(DESC, [KEY]),
            lambda: manager.allocate_blocks_cache(DESC, CacheKey(1, 2)),
            lambda: manager.allocate_blocks_cache("x"),
        ):
            with pytest.raises(TypeError, match="only support"):
                call()

    @pytest.mark.rule("C1.10-3", "C1.10-4")
    def test_no_tensors_and_no_pool(self, native, request_manager):
        assert_invalid(lambda: request_manager.allocate_cache(CacheDesc(0, [1], DataType.DT_INT8)))
        assert_invalid(lambda: request_manager.allocate_cache(DESC), "mem_pool_cfg")
        assert_invalid(
            lambda: request_manager.allocate_blocks_cache(HOST_DESC), "host_mem_pool_cfg"
        )
        assert native.of("cache_allocate") == []

    def test_an_absurd_number_of_tensors_costs_no_memory(self, native, manager):
        native.fail("cache_allocate", S.LLM_OUT_OF_MEMORY)
        with pytest.raises(MemoryError) as caught:
            manager.allocate_cache(CacheDesc(2**32 - 1, [1], DataType.DT_INT8))
        assert caught.value.status_code is S.LLM_OUT_OF_MEMORY
        # The pool of 1 MiB has 16 pages of 64 KiB.
        assert len(native.last("cache_allocate")[5]) == 16

    def test_what_the_engine_noticed_becomes_a_warning(self, native, manager):
        self.give(native)
        give_notice(native, "several placeholder keys")
        with pytest.warns(LLMDataDistWarning, match="placeholder") as caught:
            manager.allocate_cache(DESC, [CacheKey(1, UNSET), CacheKey(1, UNSET)])
        assert caught[0].filename == __file__
        manager.allocate_cache(DESC)

    def test_one_desc_serves_both_layouts(self, native, manager):
        self.give(native)
        manager.allocate_blocks_cache(DESC)
        manager.allocate_cache(DESC)
        assert native.last("cache_allocate")[1]["layout"] == 0


class TestRegister:
    def give(self, native):
        native.on("cache_register", lambda engine, args, cache_id: cache_id.__setitem__(0, 3))

    @pytest.mark.rule("C1.10-7")
    def test_contiguous(self, native, manager):
        self.give(native)
        addrs = [1, 2, 3, 2**64 - 1]
        cache = manager.register_cache(DESC, addrs, [CacheKey(1, 2)])
        assert (cache.cache_id, cache.tensor_addrs, cache.is_blocks_cache) == (3, addrs, False)
        _, args, _ = native.last("cache_register")
        assert (args["addrs"], args["flags"]) == (addrs, 1)
        assert args["desc"]["layout"] == 0
        assert args["keys"][0]["req_id"] == 2

    @pytest.mark.rule("C1.10-8")
    def test_blocks(self, native, manager):
        self.give(native)
        assert manager.register_blocks_cache(DESC, [1, 2], KEY).is_blocks_cache
        _, args, _ = native.last("cache_register")
        assert (args["desc"]["layout"], args["num_addrs"], args["keys"][0]["kind"]) == (1, 2, 3)

    @pytest.mark.rule("C1.10-7", "C1.10-8", "C1.10-21")
    @pytest.mark.parametrize("name", ["register_cache", "register_blocks_cache"])
    def test_remote_accessible(self, native, manager, name):
        self.give(native)
        register = getattr(manager, name)

        def flags(desc, **kwargs):
            register(desc, [1, 2, 3, 4], **kwargs)
            return native.last("cache_register")[1]["flags"]

        assert (flags(DESC), flags(HOST_DESC)) == (1, 0)
        assert flags(HOST_DESC, remote_accessible=True) == 1
        assert flags(DESC, remote_accessible=False) == 0
        manager.set_is_call_linked()
        assert (flags(DESC), flags(HOST_DESC)) == (0, 0)
        assert flags(DESC, remote_accessible=False) == 0
        assert_invalid(lambda: register(DESC, [1, 2, 3, 4], remote_accessible=True), "link")
        with pytest.raises(TypeError, match="remote_accessible"):
            register(DESC, [1, 2, 3, 4], remote_accessible=1)

    def test_link_switches_the_default_off(self, native, open_datadist):
        self.give(native)
        datadist = open_datadist(1)
        datadist.link("name", {1: 0, 2: 1}, "")
        datadist.cache_manager.register_blocks_cache(DESC, [1, 2, 3, 4])
        assert native.last("cache_register")[1]["flags"] == 0

    @pytest.mark.rule("C1.10-7", "C1.10-8")
    @pytest.mark.parametrize("name", ["register_cache", "register_blocks_cache"])
    def test_types(self, manager, name):
        register = getattr(manager, name)
        for arguments in (
            (None, [1]),
            (DESC, (1, 2, 3, 4)),
            (DESC, None),
            (DESC, ["1"]),
            (DESC, [1], 5),
        ):
            with pytest.raises(TypeError):
                register(*arguments)
        with pytest.raises(TypeError, match=r"addrs\[0\]"):
            register(DESC, [-1, 2, 3, 4])

    @pytest.mark.rule("C1.10-7", "C1.10-8")
    def test_addresses(self, native, manager):
        for addrs in ([], [1, 2, 3], [1, 2, 0, 4]):
            assert_invalid(lambda a=addrs: manager.register_cache(DESC, a), "addrs")
        assert_invalid(lambda: manager.register_blocks_cache(DESC, []), "addrs")
        # Count and zero of a blocks cache are left to the engine.
        native.fail("cache_register", S.LLM_PARAM_INVALID)
        assert_invalid(lambda: manager.register_blocks_cache(DESC, [0]), "library's own text")

    def test_a_warning_made_an_error_leaves_no_cache_behind(self, native, manager):
        native.on("cache_register", lambda e, a, out: out.__setitem__(0, 7))
        give_notice(native, "the key now names cache 7")
        with pytest.raises(LLMDataDistWarning, match="now names cache 7"):
            manager.register_blocks_cache(DESC, [1, 2, 3, 4], KEY)
        assert native.last("cache_unregister")[1] == 7
        assert manager.register_blocks_cache(DESC, [1, 2, 3, 4], KEY).cache_id == 7

    @pytest.mark.rule("C1.10-9")
    def test_unregister(self, native, manager):
        manager.unregister_cache(-(2**63))
        assert native.last("cache_unregister")[1] == -(2**63)
        for bad, error in ((None, TypeError), (CONTIGUOUS, TypeError), (2**63, ValueError)):
            with pytest.raises(error):
                manager.unregister_cache(bad)


class TestRelease:
    @pytest.mark.rule("C1.10-5", "C1.10-6")
    def test_deallocate(self, native, manager):
        contiguous, blocks = Cache(1, DESC, [1], False), Cache(2, DESC, [1], True)
        manager.deallocate_cache(contiguous)
        manager.deallocate_cache(contiguous)
        manager.deallocate_blocks_cache(blocks)
        assert [args[1] for args in native.of("cache_deallocate")] == [1, 1, 2]
        assert contiguous.tensor_addrs == blocks.tensor_addrs == []
        assert_invalid(lambda: manager.deallocate_cache(blocks))
        assert_invalid(lambda: manager.deallocate_blocks_cache(contiguous))
        for call in (manager.deallocate_cache, manager.deallocate_blocks_cache):
            with pytest.raises(TypeError, match="cache only support"):
                call(None)

    def test_a_failed_deallocate_keeps_the_addresses(self, native, manager):
        native.fail("cache_deallocate", S.LLM_FEATURE_NOT_ENABLED)
        cache = Cache(1, DESC, [1], False)
        with pytest.raises(NotImplementedError):
            manager.deallocate_cache(cache)
        assert cache.tensor_addrs == [1]

    @pytest.mark.rule("C1.10-10")
    def test_remove_cache_key(self, native, manager):
        manager.remove_cache_key(CacheKey(1, 2, 3))
        key = native.last("key_remove")[1]
        assert (key["kind"], key["req_id"], key["model_id"]) == (1, 2, 3)
        with pytest.raises(TypeError):
            manager.remove_cache_key(KEY)


class TestPullBlocks:
    @pytest.mark.parametrize(
        "form",
        [
            list,
            tuple,
            lambda ids: np.array(ids, np.uint64),
            lambda ids: np.array(ids),
            lambda ids: array("Q", ids),
        ],
    )
    def test_what_reaches_the_library(self, native, manager, form):
        assert manager.pull_blocks(KEY, BLOCKS, form([5, 6, 9]), form([0, 2, 1])) is None
        _, args = native.last("pull")
        assert (args["key"]["kind"], args["key"]["cluster_id"], args["key"]["model_id"]) == (
            3,
            9,
            2,
        )
        assert (args["cache_id"], args["size"], args["batch_index"]) == (5, -1, 0)
        assert (args["src_blocks"], args["dst_blocks"]) == ([5, 6, 9], [0, 2, 1])
        assert args["tensors_per_layer"] == 2
        assert (args["src_layer_count"], args["dst_layer_count"]) == (0, 0)

    @pytest.mark.rule("C1.10-22")
    def test_layers(self, native, manager):
        manager.pull_blocks(
            KEY,
            BLOCKS,
            [1],
            [2],
            src_layer_range=range(3, 5),
            dst_layer_range=range(1, 3),
            tensor_num_per_layer=7,
        )
        _, args = native.last("pull")
        layers = [
            args[f"{end}_layer_{what}"] for end in ("src", "dst") for what in ("start", "count")
        ]
        assert layers == [3, 2, 1, 2]
        assert args["tensors_per_layer"] == 7
        manager.pull_blocks(KEY, BLOCKS, [1], [2], src_layer_range=range(0), dst_layer_range=None)
        _, args = native.last("pull")
        assert (args["src_layer_count"], args["dst_layer_count"], args["tensors_per_layer"]) == (
            0,
            0,
            2,
        )

    @pytest.mark.parametrize(
        ("kwargs", "error"),
        [
            ({"src_layer_range": [0, 1]}, TypeError),
            ({"dst_layer_range": 1}, TypeError),
            ({"src_layer_range": range(2**32, 2**32 + 1)}, ValueError),
            ({"dst_layer_range": range(2**70)}, ValueError),
            ({"tensor_num_per_layer": None}, TypeError),
            ({"tensor_num_per_layer": -1}, ValueError),
            ({"tensor_num_per_layer": 2**32}, ValueError),
        ],
    )
    def test_builtin_errors_of_layers(self, manager, kwargs, error):
        with pytest.raises(error) as caught:
            manager.pull_blocks(KEY, BLOCKS, [1], [2], **kwargs)
        assert not isinstance(caught.value, LLMException)

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"src_layer_range": range(0, 4, 2)},
            {"dst_layer_range": range(-1, 2)},
            {"dst_layer_range": range(3, -1, -1)},
            {"tensor_num_per_layer": 0},
        ],
    )
    def test_param_invalid_of_layers(self, manager, kwargs):
        assert_invalid(lambda: manager.pull_blocks(KEY, BLOCKS, [1], [2], **kwargs))

    def test_other_keys(self, native, manager):
        manager.pull_blocks(BY_ID, BLOCKS, dst_blocks=[1, 2])
        _, args = native.last("pull")
        assert (args["key"]["kind"], args["key"]["cache_id"], args["key"]["batch_index"]) == (
            2,
            3,
            1,
        )
        assert (args["num_src_blocks"], args["dst_blocks"]) == (0, [1, 2])
        manager.pull_blocks(CacheKey(9, 4), BLOCKS, (), [1])
        assert native.last("pull")[1]["key"]["req_id"] == 4
        with pytest.raises(TypeError, match="src_blocks"):
            manager.pull_blocks(BY_ID, BLOCKS, None, [1])

    @pytest.mark.rule("C1.2-11", "C1.10-15")
    def test_types(self, native, manager):
        for arguments in (
            (None, BLOCKS, [1], [1]),
            (9, BLOCKS, [1], [1]),
            (KEY, None, [1], [1]),
            (KEY, 5, [1], [1]),
            (KEY, BLOCKS, "1", [1]),
            (KEY, BLOCKS, [1], {1}),
            (KEY, BLOCKS, [-1], [1]),
            (KEY, BLOCKS, [1], [2**64]),
        ):
            with pytest.raises(TypeError):
                manager.pull_blocks(*arguments)
        assert native.of("pull") == []

    @pytest.mark.rule("C1.10-15")
    def test_param_invalid(self, native, manager):
        for arguments, text in (
            ((KEY, CONTIGUOUS, [1], [1]), "no blocks"),
            ((KEY, BLOCKS, [1], []), "dst_blocks is empty"),
            ((KEY, BLOCKS, [1]), "dst_blocks is empty"),
            ((KEY, BLOCKS, [1], None), "dst_blocks is empty"),
            ((KEY, BLOCKS, [], [1]), "src_blocks is empty"),
            ((KEY, BLOCKS, None, [1]), "src_blocks is empty"),
            ((BY_ID, BLOCKS, [1], [1]), "src_blocks must be empty"),
            ((CacheKey(1, 2, 3, 4), BLOCKS, [], [1]), "exactly one"),
            ((CacheKey(1, UNSET), BLOCKS, [], [1]), "exactly one"),
        ):
            assert_invalid(lambda a=arguments: manager.pull_blocks(*a), text)
        assert native.of("pull") == []

    def test_an_engine_failure(self, native, manager):
        native.fail("pull", S.LLM_NOT_YET_LINK)
        native.detail = "no link to cluster 9"
        with pytest.raises(LLMException) as caught:
            manager.pull_blocks(KEY, BLOCKS, np.array([1]), [1])
        assert str(caught.value) == (
            "[pull_blocks] failed, error code is LLMStatusCode.LLM_NOT_YET_LINK, "
            "no link to cluster 9."
        )

    def test_short_and_long_lists_of_every_form_in_turn(self, native, manager):
        other = Cache(7, DESC, [1, 2, 3, 4], True)
        forms = [np.uint64, np.int64, None, np.ulonglong, np.int32, np.uint32]
        for round_number, count in enumerate([1, 3, 3, 64, 65, 200, 2, 64, 1] * len(forms)):
            form = forms[round_number % len(forms)]
            src = list(range(round_number, round_number + count))
            dst = src[::-1]
            cache = other if round_number % 3 else BLOCKS
            key = BlocksCacheKey(round_number % 5, 2)
            lists = [ids if form is None else np.array(ids, form) for ids in (src, dst)]
            layers = {"src_layer_range": range(1, 3)} if round_number % 7 == 6 else {}
            manager.pull_blocks(key, cache, *lists, **layers)
            _, args = native.last("pull")
            assert (args["src_blocks"], args["dst_blocks"]) == (src, dst)
            assert args["key"]["cluster_id"] == round_number % 5
            assert (args["cache_id"], args["src_layer_count"]) == (
                cache.cache_id,
                2 if layers else 0,
            )

    @pytest.mark.parametrize(
        "blocks",
        [
            np.array([1.0, 2.0]),
            np.array([1, 2], np.int16),
            np.array([1, 2], ">i4"),
            np.array([1, 2], ">u8"),
            np.array([[1], [2]], np.uint64),
            np.array(1, np.uint64),
            np.array([True, False]),
            np.array([1, 2], object),
            np.array(["1", "2"]),
            np.array([1, 2], "M8[s]"),
            np.zeros(2, [("a", np.uint64)]),
            np.array([1 + 0j, 2]),
        ],
    )
    def test_other_arrays_are_refused_on_either_side(self, native, manager, blocks):
        good = np.array([1, 2], np.uint64)
        for lists, name in (((blocks, good), "src_blocks"), ((good, blocks), "dst_blocks")):
            with pytest.raises(TypeError, match=name):
                manager.pull_blocks(KEY, BLOCKS, *lists)
        assert native.of("pull") == []

    def test_arrays_with_a_step_between_and_mixed_types(self, native, manager):
        ids = np.arange(10, dtype=np.uint64)
        manager.pull_blocks(KEY, BLOCKS, ids[::-3], np.array([7, 8, 9, 6], np.int64))
        _, args = native.last("pull")
        assert (args["src_blocks"], args["dst_blocks"]) == ([9, 6, 3, 0], [7, 8, 9, 6])

    def test_negative_numbers_in_a_buffer(self, native, manager):
        native.fail("pull", S.LLM_PARAM_INVALID)
        with pytest.raises(TypeError, match=r"dst_blocks\[1\].*-3"):
            manager.pull_blocks(KEY, BLOCKS, [1, 2], np.array([1, -3]))
        assert native.last("pull")[1]["dst_blocks"] == [1, 2**64 - 3]

    @pytest.mark.rule("C10-66")
    def test_negative_numbers_of_what_is_converted(self, native, manager):
        for form in (
            lambda ids: np.array(ids, np.int32),
            lambda ids: range(ids[0], ids[1] - 1, ids[1] - ids[0]),
            lambda ids: ForeignTensor(np.array(ids, np.int64)),
        ):
            for lists, name in ((([1, 2], form([1, -3])), "dst"), ((form([1, -3]), [1, 2]), "src")):
                with pytest.raises(TypeError, match=rf"^{name}_blocks\[1\] .*-3"):
                    manager.pull_blocks(KEY, BLOCKS, *lists)
        assert native.of("pull") == []

    def test_a_refused_pull_of_converted_ids_is_the_engines(self, native, manager):
        native.fail("pull", S.LLM_PARAM_INVALID)
        for blocks in (np.array([1], np.uint32), range(1), ForeignTensor(np.array([1]))):
            assert_invalid(lambda ids=blocks: manager.pull_blocks(KEY, BLOCKS, ids, ids))

    def test_calls_at_one_time_do_not_share_a_frame(self, native, manager):
        inside, seen = threading.Barrier(4, timeout=30), []

        def pull(engine, args):
            inside.wait()  # all four calls are in here now
            seen.append((args.key.model_id, args.dst_blocks[0]))
            return 0

        native.facade.pull = pull
        threads = [
            threading.Thread(
                target=manager.pull_blocks, args=(BlocksCacheKey(9, n), BLOCKS, [n], [n])
            )
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(seen) == [(n, n) for n in range(4)]

    def test_a_warm_call_makes_no_structs(self, native, manager, mocker):
        manager.pull_blocks(KEY, BLOCKS, [1], [2])
        native.facade.pull = lambda engine, args: 0
        new = mocker.patch("llm_datadist._native.marshal.new", side_effect=AssertionError)
        for model_id in range(10):
            manager.pull_blocks(BlocksCacheKey(9, model_id), BLOCKS, [1], [2])
        new.assert_not_called()

    def test_buffers_are_free_after_the_call(self, native, manager):
        blocks = array("Q", [1, 2])
        native.facade.pull = lambda engine, args: 0
        before = sys.getrefcount(blocks)
        manager.pull_blocks(KEY, BLOCKS, blocks, blocks)
        assert sys.getrefcount(blocks) == before
        blocks.append(3)  # BufferError while anything exports it

    def test_strict_hardware_mode(self, native, open_datadist, monkeypatch):
        monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")
        manager = open_datadist().cache_manager
        # STRICT_HARDWARE and TELL_NOTICES.
        assert native.last("engine_open")[0]["flags"] == 1 | 4
        manager.pull_blocks(KEY, BLOCKS, [1], [2])
        with pytest.raises(TypeError, match="src_blocks"):
            manager.pull_blocks(KEY, BLOCKS, np.array([1]), [2])


class TestPullCache:
    def test_what_reaches_the_library(self, native, manager):
        manager.pull_cache(BY_ID, CONTIGUOUS, 3, 64, dst_layer_range=range(1, 2))
        _, args = native.last("pull")
        assert (args["key"]["kind"], args["cache_id"]) == (2, 6)
        assert (args["batch_index"], args["size"], args["tensors_per_layer"]) == (3, 64, 2)
        assert (args["num_src_blocks"], args["num_dst_blocks"]) == (0, 0)
        assert (args["dst_layer_start"], args["dst_layer_count"]) == (1, 1)

    def test_keys_of_each_mode(self, native, open_datadist, manager):
        for key in (KEY, CacheKey(9, 1), None):
            with pytest.raises(TypeError, match="cache_key only support"):
                manager.pull_cache(key, CONTIGUOUS)

    def test_keys_of_request_mode(self, native, request_manager):
        request_manager.pull_cache(CacheKey(9, 1), CONTIGUOUS)
        request_manager.pull_cache(CacheKey(9, UNSET, 0, 1), CONTIGUOUS)
        assert len(native.of("pull")) == 2
        with pytest.raises(TypeError, match="cache_key only support"):
            request_manager.pull_cache(KEY, CONTIGUOUS)
        assert_invalid(
            lambda: request_manager.pull_cache(CacheKey(9, UNSET), CONTIGUOUS), "exactly one"
        )

    @pytest.mark.rule("C1.10-14")
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((None,), TypeError),
            ((CONTIGUOUS, -1), ValueError),
            ((CONTIGUOUS, None), TypeError),
            ((CONTIGUOUS, 0, 2**63), ValueError),
        ],
    )
    def test_builtin_errors(self, manager, arguments, error):
        with pytest.raises(error):
            manager.pull_cache(BY_ID, *arguments)

    @pytest.mark.rule("C1.10-14")
    def test_param_invalid(self, manager):
        assert_invalid(lambda: manager.pull_cache(BY_ID, BLOCKS), "has blocks")
        for size in (0, -2):
            assert_invalid(lambda s=size: manager.pull_cache(BY_ID, CONTIGUOUS, 0, s), "size")
        assert_invalid(lambda: manager.pull_cache(BY_ID, CONTIGUOUS, tensor_num_per_layer=0))


class TestPush:
    def test_blocks(self, native, manager):
        manager.push_blocks(KEY, BLOCKS, [5, 6], np.array([0, 2]))
        _, args, done = native.last("push")
        assert (args["key"]["kind"], args["cache_id"], done) == (3, 5, None)
        assert (args["src_blocks"], args["dst_blocks"]) == ([5, 6], [0, 2])
        assert (args["src_layer_start"], args["dst_layer_start"], args["num_layers"]) == (0, 0, ALL)
        manager.push_blocks(KEY, BLOCKS, None, [1], range(1, 2), range(3, 4), 1)
        _, args, _ = native.last("push")
        assert (args["num_src_blocks"], args["tensors_per_layer"]) == (0, 1)
        assert (args["src_layer_start"], args["dst_layer_start"], args["num_layers"]) == (1, 3, 1)

    def test_cache(self, native, manager):
        manager.push_cache(BY_ID, CONTIGUOUS, 3, tensor_num_per_layer=4)
        _, args, _ = native.last("push")
        assert (args["key"]["cache_id"], args["cache_id"], args["src_batch_index"]) == (3, 6, 3)
        assert (args["num_layers"], args["num_dst_blocks"]) == (ALL, 0)

    def test_one_sided_mode_only(self, request_manager):
        assert_invalid(lambda: request_manager.push_blocks(None, None), "one-sided")
        assert_invalid(lambda: request_manager.push_cache(None, None), "one-sided")

    @pytest.mark.rule("C1.2-11", "C1.2-16", "C1.10-16", "C1.10-17", "C6.1-34")
    def test_types(self, manager):
        for call in (
            lambda: manager.push_blocks(None, BLOCKS, [1], [1]),
            lambda: manager.push_blocks(CacheKey(1, 2), BLOCKS, [1], [1]),
            lambda: manager.push_blocks(KEY, None, [1], [1]),
            lambda: manager.push_blocks(KEY, BLOCKS, [-1], [1]),
            lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], src_layer_range=[0]),
            lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], tensor_num_per_layer=None),
            lambda: manager.push_blocks(BY_ID, BLOCKS, [1], [1]),
            lambda: manager.push_cache(None, CONTIGUOUS),
            lambda: manager.push_cache(KEY, CONTIGUOUS),
            lambda: manager.push_cache(BY_ID, None),
            lambda: manager.push_cache(BY_ID, CONTIGUOUS, None),
            lambda: manager.push_cache(BY_ID, CONTIGUOUS, size=None),
            lambda: manager.push_cache(CacheKeyByIdAndIndex(9, -1), CONTIGUOUS),
        ):
            with pytest.raises(TypeError):
                call()

    @pytest.mark.rule("C1.10-16", "C1.10-17")
    def test_param_invalid(self, native, manager):
        for call, text in (
            (lambda: manager.push_blocks(KEY, CONTIGUOUS, [1], [1]), "no blocks"),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], []), "dst_blocks is empty"),
            (
                lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], tensor_num_per_layer=0),
                "positive",
            ),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], range(0)), "src_layer_range"),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], range(1)), "one length"),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], None, range(3)), "one length"),
            (lambda: manager.push_cache(BY_ID, BLOCKS), "has blocks"),
            (lambda: manager.push_cache(BY_ID, CONTIGUOUS, size=5), "size"),
        ):
            assert_invalid(call, text)
        assert native.of("push") == []

    def test_layers_beyond_uint32(self, manager):
        with pytest.raises(ValueError, match="end of a layer range"):
            manager.push_cache(BY_ID, CONTIGUOUS, 0, range(2**70), range(2**70))

    def test_fewer_tensors_than_a_layer_warn(self, native, manager):
        three = Cache(5, CacheDesc(3, [8, 16], DataType.DT_INT8), [1, 2, 3], True)
        with pytest.warns(LLMDataDistWarning, match="nothing is pushed") as caught:
            manager.push_blocks(KEY, three, [1], [1], tensor_num_per_layer=4)
        assert caught[0].filename == __file__
        assert native.of("push") == []
        # The engine is asked for what is not a whole number of layers, and refuses it.
        manager.push_blocks(KEY, three, [1], [1])
        assert native.last("push")[1]["num_layers"] == ALL

    def test_cache_id_zero_warns(self, native, manager):
        with pytest.warns(LLMDataDistWarning, match="req_id 0, model_id 0") as caught:
            manager.push_cache(CacheKeyByIdAndIndex(9, 0), CONTIGUOUS)
        assert caught[0].filename == __file__
        assert len(native.of("push")) == 1

    def test_failures(self, native, manager):
        native.fail("push", S.LLM_TIMEOUT)
        for call, name in (
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1]), "push_blocks"),
            (lambda: manager.push_cache(BY_ID, CONTIGUOUS), "push_cache"),
        ):
            with pytest.raises(LLMException, match=rf"\[{name}\] failed") as caught:
                call()
            assert caught.value.status_code is S.LLM_TIMEOUT
        with pytest.raises(TypeError, match=r"src_blocks\[0\]"):
            manager.push_blocks(KEY, BLOCKS, np.array([-1]), [1])


class TestLocalCopies:
    @pytest.mark.rule("C1.10-11")
    def test_copy_cache(self, native, manager):
        manager.copy_cache(CONTIGUOUS, Cache(8, DESC, [], False), 1, 2, 3, 4, req_id=5)
        _, args = native.last("cache_copy")
        assert (args["dst_cache_id"], args["dst_batch_index"]) == (6, 1)
        assert (args["src_cache_id"], args["src_batch_index"]) == (8, 2)
        assert (args["offset"], args["size"]) == (3, 4)
        for arguments, error in (
            ((None, CONTIGUOUS), TypeError),
            ((CONTIGUOUS, None), TypeError),
            ((CONTIGUOUS, CONTIGUOUS, -1), ValueError),
            ((CONTIGUOUS, CONTIGUOUS, 0, None), TypeError),
            ((CONTIGUOUS, CONTIGUOUS, 0, 0, 2**64), ValueError),
            ((CONTIGUOUS, CONTIGUOUS, 0, 0, 0, 2**63), ValueError),
            ((CONTIGUOUS, CONTIGUOUS, 0, 0, 0, -1, -1), ValueError),
        ):
            with pytest.raises(error):
                manager.copy_cache(*arguments)
        assert_invalid(lambda: manager.copy_cache(BLOCKS, CONTIGUOUS), "dst has blocks")
        assert_invalid(lambda: manager.copy_cache(BLOCKS, BLOCKS), "src has blocks")
        assert_invalid(lambda: manager.copy_cache(CONTIGUOUS, CONTIGUOUS, size=0), "size")

    @pytest.mark.rule("C1.2-11", "C1.10-12")
    def test_copy_blocks(self, native, manager):
        manager.copy_blocks(BLOCKS, {1: [2, 3], 4: [], 5: [6]})
        assert native.last("blocks_copy")[1:] == (5, [1, 1, 5], [2, 3, 6], 3)
        manager.copy_blocks(BLOCKS, {})
        assert native.last("blocks_copy")[4] == 0
        for cache, info in (
            (None, {}),
            (BLOCKS, None),
            (BLOCKS, [(1, 2)]),
            (BLOCKS, {1: (2,)}),
            (BLOCKS, {"1": [2]}),
            (BLOCKS, {1: ["2"]}),
            (BLOCKS, {1: [-2]}),
        ):
            with pytest.raises(TypeError):
                manager.copy_blocks(cache, info)
        assert_invalid(lambda: manager.copy_blocks(CONTIGUOUS, {1: [2]}), "no blocks")

    def test_swap_blocks(self, native, manager):
        host = Cache.create_cpu_cache(HOST_DESC, [10, 20, 30, 40])
        manager.swap_blocks(host, BLOCKS, {7: 0, 1: 2})
        _, args = native.last("blocks_swap")
        assert (args["src_placement"], args["block_bytes"], args["num_tensors"]) == (0, 16, 4)
        assert (args["src_addrs"], args["dst_addrs"]) == ([10, 20, 30, 40], [1, 2, 3, 4])
        assert (args["src_blocks"], args["dst_blocks"]) == ([7, 1], [0, 2])
        manager.swap_blocks(BLOCKS, Cache(5, HOST_DESC, [], True), {})
        _, args = native.last("blocks_swap")
        assert (args["src_placement"], args["num_tensors"], args["num_blocks"]) == (1, 0, 0)

    @pytest.mark.rule("C1.10-13")
    def test_swap_blocks_refuses(self, manager):
        host = Cache.create_cpu_cache(HOST_DESC, [10, 20, 30, 40])
        other_size = Cache(5, CacheDesc(4, [8, 8], DataType.DT_INT8), [1, 2, 3, 4], True)
        other_count = Cache(5, CacheDesc(2, [8, 16], DataType.DT_INT8), [1, 2], True)
        for arguments in (
            (None, BLOCKS, {}),
            (host, 1, {}),
            (host, BLOCKS, []),
            (host, BLOCKS, {"1": 1}),
        ):
            with pytest.raises(TypeError):
                manager.swap_blocks(*arguments)
        for arguments in (
            (host, CONTIGUOUS, {}),
            (CONTIGUOUS, host, {}),
            (host, other_size, {}),
            (host, other_count, {}),
            (host, BLOCKS, {8: 0}),
            (host, BLOCKS, {0: 8}),
            (host, host, {0: 0}),
        ):
            assert_invalid(lambda a=arguments: manager.swap_blocks(*a))

    @pytest.mark.rule("C1.10-19")
    def test_remap(self, native, manager):
        info = MemInfo(Memtype.MEM_TYPE_DEVICE, 2**63, 4096)
        manager.remap_registered_memory(info)
        manager.remap_registered_memory([info, info])
        _, memory, count = native.last("memory_remap")
        assert [(each["addr"], each["size"], each["placement"]) for each in memory] == [
            (2**63, 4096, 1)
        ] * 2
        assert count == 2
        native.fail("memory_remap", S.LLM_PARAM_INVALID)
        for bad in (None, (info,), "x", [1], []):
            assert_invalid(lambda b=bad: manager.remap_registered_memory(b))
        for bad in (
            MemInfo(Memtype.MEM_TYPE_HOST, 1, 1),
            MemInfo(Memtype.MEM_TYPE_DEVICE, 0, 1),
            MemInfo(Memtype.MEM_TYPE_DEVICE, 1, 0),
        ):
            assert_invalid(lambda b=bad: manager.remap_registered_memory(b), "device memory")


@pytest.mark.rule("C1.10-20")
def test_check_cache_key(manager):
    manager.check_cache_key(CacheKey(1, 2))
    manager.check_cache_key(CacheKey(1, UNSET, 0, 3))
    assert_invalid(lambda: manager.check_cache_key(CacheKey(1, 2, 0, 3)))
    assert_invalid(lambda: manager.check_cache_key(CacheKey(1, UNSET)))
