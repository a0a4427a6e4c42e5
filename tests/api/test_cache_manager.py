# SPDX-License-Identifier: Apache-2.0
"""Caches and local copies of a CacheManager over a mocked library: contract 1.10, 4, 6.3 to 6.5."""

from __future__ import annotations

import pytest

from llm_datadist import Cache, CacheDesc, CacheKey, DataType, LLMDataDistWarning, MemInfo, Memtype
from llm_datadist import LLMStatusCode as S
from tests.api.managed import BLOCKS, CONTIGUOUS, DESC, HOST_DESC, KEY, UNSET, assert_invalid


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
