# SPDX-License-Identifier: Apache-2.0
"""LLMDataDist over a mocked library: contract 1.4, chapter 7."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import replace

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LayerSynchronizer,
    LLMClusterInfo,
    LLMConfig,
    LLMDataDist,
    LLMDataDistWarning,
    LLMException,
    LLMRole,
    LLMStatusCode,
    RegisterMemStatus,
    TransferWithCacheKeyConfig,
)
from llm_datadist.introspection import (
    Counters,
    LastError,
    LinkInfo,
    LinkState,
    MemoryKind,
    PathInfo,
)
from llm_datadist.testing import eventually
from llm_datadist.utils.log import get_logger

S = LLMStatusCode


def assert_status(call, code, text=None):
    with pytest.raises(LLMException, match=text) as caught:
        call()
    assert caught.value.status_code is code
    return caught.value


def cluster(remote_id=None, remote="127.0.0.1", local="127.0.0.1"):
    info = LLMClusterInfo()
    if remote_id is not None:
        info.remote_cluster_id = remote_id
    if remote is not None:
        info.append_remote_ip_info(remote, 26000)
    if local is not None:
        info.append_local_ip_info(local, 26001)
    return info


@pytest.fixture
def log_lines(mocker):
    handle = mocker.patch.object(get_logger().handlers[0], "emit")
    return lambda: [call.args[0].getMessage() for call in handle.call_args_list]


class TestLife:
    @pytest.mark.rule("C1.4-1", "C1.4-3")
    @pytest.mark.parametrize(
        ("role", "cluster_id", "error"),
        [
            ("PROMPT", 1, TypeError),
            (1, 1, TypeError),
            (None, 1, TypeError),
            (LLMRole.MIX, None, TypeError),
            (LLMRole.MIX, "1", TypeError),
            (LLMRole.MIX, -1, ValueError),
            (LLMRole.MIX, 2**64, ValueError),
        ],
    )
    def test_constructor(self, role, cluster_id, error):
        with pytest.raises(error):
            LLMDataDist(role, cluster_id)

    @pytest.mark.rule("C1.4-5", "C1.4-6", "C1.4-7")
    def test_everything_needs_init(self):
        datadist = LLMDataDist(LLMRole.PROMPT, 2**64 - 1)
        assert datadist.cluster_id == 2**64 - 1
        datadist.finalize()
        calls = [
            lambda: datadist.cache_manager,
            lambda: datadist.kv_cache_manager,
            lambda: datadist.check_link_status(1),
            lambda: datadist.link_clusters(None, None),
            lambda: datadist.unlink_clusters(None),
            lambda: datadist.link(None, None, None),
            lambda: datadist.unlink(None),
            lambda: datadist.query_register_mem_status(None),
            lambda: datadist.switch_role(None),
            lambda: datadist.listen_address,
            lambda: datadist.links(),
            lambda: datadist.link_paths(1),
            lambda: datadist.counters(),
            lambda: datadist.drop_gone_links(),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="not initialized") as caught:
                call()
            assert type(caught.value) is RuntimeError

    @pytest.mark.rule("C1.4.1-7", "C3.2-1", "C3.2-30", "C3.2-31")
    def test_config_that_reaches_the_library(self, native, open_datadist):
        open_datadist(
            cluster_id=2**64 - 1,
            role=LLMRole.MIX,
            device_id=3,
            sync_kv_timeout=77,
            listen_ip_info="[::1]:26000",
            mem_pool_cfg='{"memory_size": 4096, "page_shift": 12}',
            link_retry_count=5,
            rdma_traffic_class=100,
            auth_token="s\u00e9cret",
        )
        config, _out = native.last("engine_open")
        assert (config["cluster_id"], config["role"]) == (2**64 - 1, 3)
        assert (config["mode"], config["link_style"], config["flags"]) == (1, 0, 2 | 4)
        assert (config["device_id"], config["sync_timeout_ms"]) == (3, 77)
        assert (config["listen_ip"], config["listen_port"]) == ("::1", 26000)
        assert (config["device_pool_size"], config["device_page_shift"]) == (4096, 12)
        assert (config["host_pool_size"], config["host_page_shift"]) == (0, 16)
        assert (config["link_total_time_s"], config["link_retry_count"]) == (0, 5)
        assert (config["rdma_traffic_class"], config["rdma_service_level"]) == (100, 0xFFFFFFFF)
        assert config["auth_token"] == "s\u00e9cret"
        assert (config["local_comm_res"], config["global_resource_config"]) == (None, None)
        assert config["peer_timeout_ms"] == 15000
        assert config["finalize_timeout_ms"] == 10_000

    @pytest.mark.rule("C10-210")
    @pytest.mark.parametrize(("given", "told"), [(0, 0xFFFFFFFF), (1, 1), (2**31 - 1, 2**31 - 1)])
    def test_a_peer_timeout_of_0_is_none(self, native, open_datadist, given, told):
        open_datadist(peer_timeout=given)
        config, _out = native.last("engine_open")
        assert config["peer_timeout_ms"] == told

    def test_hixl_makes_one_way_links(self, native, open_datadist):
        open_datadist(
            transfer_backend="hixl", listen_ip_info="127.0.0.1:0", global_resource_config="{}"
        )
        config, _ = native.last("engine_open")
        assert (config["link_style"], config["global_resource_config"]) == (1, "{}")

    def test_an_init_whose_warning_is_an_error_leaves_no_engine(self, native, open_datadist):
        notices = [b"local_comm_res has no effect"]

        def next_notice(engine, text, size, length):
            notice = notices.pop() if notices else b""
            native.ffi.memmove(text, notice + b"\0", len(notice) + 1)
            length[0] = len(notice)

        native.on("engine_next_notice", next_notice)
        with pytest.raises(LLMDataDistWarning, match="no effect"):
            open_datadist()
        assert len(native.of("engine_close")) == 1
        assert LLMDataDist.llm_engine_instance is None
        # Nor is there one in the way of the next.
        assert open_datadist().links() == []

    @pytest.mark.rule("C1.4.1-1")
    def test_second_init_looks_at_nothing(self, native, open_datadist):
        datadist = open_datadist()
        datadist.init("no dict")
        assert len(native.of("engine_open")) == 1

    @pytest.mark.rule("C1.4-4", "C1.4-9", "C1.4-10", "C1.4.1-22")
    def test_finalize_and_again(self, native, open_datadist):
        datadist = open_datadist()
        manager = datadist.cache_manager
        assert datadist.cache_manager is manager
        assert LLMDataDist.llm_engine_instance is datadist
        datadist.finalize()
        datadist.finalize()
        assert LLMDataDist.llm_engine_instance is None
        assert len(native.of("engine_close")) == 1
        with pytest.raises(RuntimeError, match="not initialized"):
            assert datadist.cache_manager
        datadist.init({"llm.EnableCacheManager": "1"})
        assert datadist.cache_manager is not manager

    @pytest.mark.rule("C1.4-9", "C1.4.1-2")
    def test_one_instance_per_process(self, open_datadist):
        first = open_datadist(1)
        second = LLMDataDist(LLMRole.PROMPT, 2)
        assert_status(lambda: second.init(None), S.LLM_FAILED, "initialized already")
        assert LLMDataDist.llm_engine_instance is first
        first.finalize()
        second.init({"llm.EnableCacheManager": "1"})
        second.finalize()

    def test_several_instances_when_asked_for(self, native, open_datadist):
        first = open_datadist(1)
        second = open_datadist(2, allow_multiple_instances=True)
        assert len(native.of("engine_open")) == 2
        assert LLMDataDist.llm_engine_instance is second
        second.finalize()
        assert LLMDataDist.llm_engine_instance is first

    @pytest.mark.rule("C1.4.1-19", "C1.4.1-23", "C1.2-9")
    def test_a_failed_init_leaves_nothing(self, native):
        datadist = LLMDataDist(LLMRole.PROMPT, 1)
        config = LLMConfig()
        config.enable_cache_manager = True
        native.fail("engine_open", S.LLM_FAILED)
        native.detail = "cannot bind 127.0.0.1:26000."
        failure = assert_status(lambda: datadist.init(config.generate_options()), S.LLM_FAILED)
        assert str(failure) == (
            "[init] failed, error code is LLMStatusCode.LLM_FAILED, cannot bind 127.0.0.1:26000."
        )
        assert LLMDataDist.llm_engine_instance is None
        native.fail("engine_open", 0)
        datadist.init(config.generate_options())
        datadist.finalize()

    @pytest.mark.rule("C1.4-12", "C1.4-13")
    def test_old_interface(self, open_datadist):
        datadist = open_datadist()
        assert_status(lambda: datadist.kv_cache_manager, S.LLM_PARAM_INVALID)
        assert_status(lambda: datadist.check_link_status(1), S.LLM_PARAM_INVALID)

    def test_the_handle_ends_with_the_last_user(self, native, open_datadist):
        class Held(LayerSynchronizer):
            go_on = threading.Event()

            def synchronize_layer(self, layer_index, timeout_in_millis):
                return self.go_on.wait(30)

        datadist = open_datadist()
        manager, synchronizer = datadist.cache_manager, Held()
        cache = Cache(1, CacheDesc(2, [1, 8], DataType.DT_INT8), [8, 16], True)
        config = TransferWithCacheKeyConfig(BlocksCacheKey(2), range(1), range(1))
        task = manager.transfer_cache_async(cache, synchronizer, [config], [0], [0])
        datadist.finalize()
        gc.collect()
        # The manager that is kept does not need it, the task does.
        assert native.of("engine_free") == []
        synchronizer.go_on.set()
        assert task.synchronize(30_000) is S.LLM_SUCCESS
        del task
        gc.collect()
        eventually(lambda: len(native.of("engine_free")) == 1, "the handle is freed")
        assert_status(lambda: manager.unregister_cache(1), S.LLM_ENGINE_FINALIZED)

    @pytest.mark.rule("C1.4-9", "C1.4.1-25")
    def test_finalize_never_raises(self, native, open_datadist, log_lines):
        datadist = open_datadist()
        native.fail("engine_close", S.LLM_FAILED)
        datadist.finalize()
        assert any("[finalize] failed" in line for line in log_lines())

    def test_the_secret_is_not_logged(self, native, open_datadist, log_lines):
        get_logger().setLevel("DEBUG")
        try:
            open_datadist(options={"lldd.AuthToken": "a-secret"})
        finally:
            get_logger().setLevel("ERROR")
        lines = log_lines()
        assert any("lldd.AuthToken" in line for line in lines)
        assert not any("a-secret" in line for line in lines)

    def test_a_forked_child_may_open_its_own_engine_and_frees_none(self, native, open_datadist):
        datadist = open_datadist()
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            verdict = b"error"
            try:
                assert LLMDataDist.llm_engine_instance is None
                own = LLMDataDist(LLMRole.PROMPT, 5)
                own.init({"llm.EnableCacheManager": "1"})
                datadist._engine = datadist._cache_manager = None
                gc.collect()
                assert native.of("engine_free") == []
                own.finalize()
                del own
                gc.collect()
                assert len(native.of("engine_free")) == 1
                verdict = b"fine"
            finally:
                os.write(write_end, verdict)
                os._exit(0)
        os.close(write_end)
        os.waitpid(pid, 0)
        assert os.read(read_end, 10) == b"fine"
        os.close(read_end)
        assert LLMDataDist.llm_engine_instance is datadist


class TestLinkClusters:
    @pytest.fixture
    def datadist(self, open_datadist):
        return open_datadist()

    def answer(self, native, name, *rows):
        """Write (status, remote id, detail) for each cluster."""

        def write(*args):
            results = args[-1]
            for index, (status, remote_id, detail) in enumerate(rows):
                results[index].status = status
                results[index].remote_cluster_id = remote_id
                results[index].detail = detail.encode()

        native.on(name, write)

    def test_what_reaches_the_library(self, native, datadist):
        first, second = cluster(7), cluster(remote="[2001:db8::1]", local="10.0.0.1")
        second.append_local_ip_info("::1", 5)
        self.answer(native, "link_clusters", (0, 7, ""), (0, 2**64 - 1, ""))
        assert datadist.link_clusters([first, second], timeout=500) == (
            S.LLM_SUCCESS,
            [S.LLM_SUCCESS] * 2,
        )
        _, clusters, count, timeout, _ = native.last("link_clusters")
        assert (count, timeout) == (2, 500)
        assert (clusters[0]["flags"], clusters[0]["remote_cluster_id"]) == (1, 7)
        assert clusters[1]["flags"] == 0
        addresses = [[(a["ip"], a["port"]) for a in each["remote"]] for each in clusters]
        assert addresses == [[("127.0.0.1", 26000)], [("2001:db8::1", 26000)]]
        assert [(a["ip"], a["port"]) for a in clusters[1]["local"]] == [
            ("10.0.0.1", 26001),
            ("::1", 5),
        ]

    def test_an_unset_id_is_learnt_and_a_given_one_stays(self, native, datadist):
        unset, wrong = cluster(), cluster(1)
        self.answer(native, "link_clusters", (0, 42, ""), (0, 43, ""))
        datadist.link_clusters((unset, wrong))
        assert (unset.remote_cluster_id, wrong.remote_cluster_id) == (42, 1)

    @pytest.mark.rule("C1.4-14")
    def test_failures_are_returned_logged_and_readable(self, native, datadist, log_lines):
        good, bad = cluster(1), cluster()
        self.answer(
            native,
            "link_clusters",
            (0, 1, ""),
            (S.LLM_LINK_FAILED, 99, "127.0.0.1:26000 refused the connection"),
        )
        native.facade.link_clusters = self._failing(native, S.LLM_LINK_FAILED)
        outcome = datadist.link_clusters([good, bad])
        assert outcome == (S.LLM_LINK_FAILED, [S.LLM_SUCCESS, S.LLM_LINK_FAILED])
        assert bad.remote_cluster_id is None
        assert (good.link_detail, bad.link_detail) == ("", "127.0.0.1:26000 refused the connection")
        assert any("refused the connection" in line for line in log_lines())

    @staticmethod
    def _failing(native, status):
        write = native.writers["link_clusters"]

        def call(*args):
            write(*args)
            return status

        return call

    @pytest.mark.rule("C1.4-14")
    def test_a_call_refused_as_a_whole(self, native, datadist):
        native.fail("link_clusters", S.LLM_PARAM_INVALID)
        native.detail = "the engine is closed"
        info = cluster(1)
        assert datadist.link_clusters([info]) == (S.LLM_PARAM_INVALID, [S.LLM_FAILED])
        assert info.link_detail == "the engine is closed"
        assert datadist.link_clusters([]) == (S.LLM_PARAM_INVALID, [])

    def test_an_unknown_status_becomes_failed(self, native, datadist):
        self.answer(native, "link_clusters", (12345, 0, "device error"))
        assert datadist.link_clusters([cluster(1)])[1] == [S.LLM_FAILED]

    @pytest.mark.rule("C1.4-15", "C1.4-16", "C1.4-20")
    @pytest.mark.parametrize(
        ("clusters", "timeout", "error"),
        [
            ([], None, TypeError),
            ([], "1", TypeError),
            ([], 2**31, ValueError),
            (None, 1, TypeError),
            ({}, 1, TypeError),
            ([None], 1, TypeError),
            ([1], 1, TypeError),
        ],
    )
    @pytest.mark.parametrize("name", ["link_clusters", "unlink_clusters"])
    def test_bad_arguments(self, native, datadist, name, clusters, timeout, error):
        with pytest.raises(error):
            getattr(datadist, name)(clusters, timeout)
        assert native.of(name) == []

    @pytest.mark.rule("C1.4-15", "C1.4-20")
    @pytest.mark.parametrize("name", ["link_clusters", "unlink_clusters"])
    def test_timeout_must_be_positive(self, datadist, name):
        for timeout in (0, -1):
            call = getattr(datadist, name)
            assert_status(lambda t=timeout, c=call: c(None, t), S.LLM_PARAM_INVALID, "timeout")

    @pytest.mark.rule("C1.4-17")
    def test_a_local_address_is_needed_without_comm_res(self, datadist, open_datadist):
        info = cluster(1, local=None)
        call = lambda: datadist.link_clusters([info])  # noqa: E731
        how = r"local_ip_info_list is empty, .*call append_local_ip_info\(ip, 0\)"
        assert_status(call, S.LLM_PARAM_INVALID, how)
        datadist.finalize()
        with_resource = open_datadist(local_comm_res="{}")
        assert with_resource.link_clusters([info])[0] is S.LLM_SUCCESS
        with_resource.finalize()
        with_empty = open_datadist(local_comm_res="")
        assert_status(lambda: with_empty.link_clusters([info]), S.LLM_PARAM_INVALID)

    @pytest.mark.rule("C1.4-18")
    def test_an_id_or_a_remote_address_is_needed(self, datadist):
        with pytest.raises(TypeError, match="remote_cluster_id"):
            datadist.link_clusters([cluster(remote=None)])

    @pytest.mark.rule("C1.4-18", "C1.4-20", "C1.4-21")
    def test_unlink(self, native, datadist):
        info = cluster(7, remote=None, local=None)
        assert datadist.unlink_clusters([info], 9, True)[0] is S.LLM_SUCCESS
        _, clusters, count, timeout, force, _ = native.last("unlink_clusters")
        assert (clusters[0]["remote_cluster_id"], count, timeout, force) == (7, 1, 9, 1)
        assert clusters[0]["remote"] is None
        datadist.unlink_clusters([info], force=None)
        assert native.last("unlink_clusters")[4] == 0
        with pytest.raises(TypeError, match="force"):
            datadist.unlink_clusters([info], 9, 1)
        with pytest.raises(TypeError, match="remote_cluster_id"):
            datadist.unlink_clusters([cluster()])

    def test_notices_become_warnings(self, native, datadist):
        notices = [b"cluster 3 was replaced"]

        def next_notice(engine, text, size, length):
            notice = notices.pop(0) if notices else b""
            native.ffi.memmove(text, notice + b"\0", len(notice) + 1)
            length[0] = len(notice)

        native.on("engine_next_notice", next_notice)
        with pytest.warns(LLMDataDistWarning, match="cluster 3 was replaced") as caught:
            datadist.link_clusters([cluster(1)])
        assert caught[0].filename == __file__


class TestCommunicators:
    @pytest.fixture
    def datadist(self, open_datadist):
        return open_datadist(1)

    @pytest.mark.rule("C1.4-29")
    def test_link(self, native, datadist):
        native.on("link", lambda engine, group, comm_id: comm_id.__setitem__(0, 3))
        assert datadist.link("name", {1: 0, 2**64 - 1: 0, 5: 2**32 - 1}, "{}") == 3
        _, group, _ = native.last("link")
        assert (group["name"], group["rank_table"]) == ("name", "{}")
        members = [(each["cluster_id"], each["rank"]) for each in group["members"]]
        assert members == [(1, 0), (2**64 - 1, 0), (5, 2**32 - 1)]

    @pytest.mark.rule("C1.4-22", "C1.4-24", "C1.4-26", "C1.4-27", "C1.2-5", "C1.2-14")
    @pytest.mark.parametrize(
        ("name", "ranks", "table", "error"),
        [
            (None, {1: 0, 2: 1}, "", TypeError),
            (b"x", {1: 0, 2: 1}, "", TypeError),
            ("x", None, "", TypeError),
            ("x", [(1, 0)], "", TypeError),
            ("x", {"1": 0}, "", TypeError),
            ("x", {1: "0"}, "", TypeError),
            ("x", {-1: 0, 2: 1}, "", ValueError),
            ("x", {1: 2**32, 2: 1}, "", ValueError),
            ("x", {1: 0, 2: 1}, None, TypeError),
        ],
    )
    def test_builtin_errors(self, native, datadist, name, ranks, table, error):
        with pytest.raises(error) as caught:
            datadist.link(name, ranks, table)
        assert not isinstance(caught.value, LLMException)
        assert native.of("link") == []

    @pytest.mark.rule("C1.4-23", "C1.4-25", "C1.4-28", "C1.4-29")
    @pytest.mark.parametrize(
        ("name", "ranks"),
        [
            ("", {1: 0, 2: 1}),
            ("x" * 128, {1: 0, 2: 1}),
            ("x", dict.fromkeys(range(5), 0)),
            ("x", {}),
            ("x", {1: 0}),
            ("x", {1: 1, 2: 0}),
        ],
    )
    def test_param_invalid(self, datadist, name, ranks):
        assert_status(lambda: datadist.link(name, ranks, ""), S.LLM_PARAM_INVALID)

    def test_pending_functions_say_so(self, native, datadist):
        native.fail("link", S.LLM_FEATURE_NOT_ENABLED)
        failure = assert_status(
            lambda: datadist.link("x", {1: 0, 2: 1}, ""), S.LLM_FEATURE_NOT_ENABLED
        )
        assert isinstance(failure, NotImplementedError)

    @pytest.mark.rule("C1.4-31", "C1.4-32", "C1.4-33")
    def test_unlink_and_query(self, native, datadist):
        datadist.unlink(2**64 - 1)
        assert native.last("unlink")[1] == 2**64 - 1
        for state, expected in ((0, "OK"), (1, "PREPARING"), (2, "FAILED"), (17, "FAILED")):
            native.on("group_state", lambda e, c, out, state=state: out.__setitem__(0, state))
            assert datadist.query_register_mem_status(3) is RegisterMemStatus[expected]
        for call in (datadist.unlink, datadist.query_register_mem_status):
            with pytest.raises(TypeError):
                call(None)
            with pytest.raises(ValueError, match="comm_id"):
                call(-1)
        native.fail("group_state", S.LLM_NOT_YET_LINK)
        assert_status(lambda: datadist.query_register_mem_status(3), S.LLM_NOT_YET_LINK)


class TestSwitchRole:
    @pytest.mark.rule("C1.4-39")
    def test_with_and_without_an_address(self, native, open_datadist):
        datadist = open_datadist()
        datadist.switch_role(LLMRole.PROMPT, {"llm.listenIpInfo": "[::1]:5", "other": "x"})
        assert native.last("engine_switch_listener")[1:] == ("::1", 5)
        datadist.switch_role(LLMRole.DECODER)
        assert native.last("engine_switch_listener")[1:] == (None, 0)
        native.fail("engine_switch_listener", S.LLM_EXIST_LINK)
        assert_status(lambda: datadist.switch_role(LLMRole.MIX), S.LLM_EXIST_LINK)
        assert "LLMRole.DECODER" in repr(datadist)

    def test_hixl_keeps_its_listener(self, native, open_datadist):
        datadist = open_datadist(transfer_backend="hixl", listen_ip_info="127.0.0.1:0")
        datadist.switch_role(LLMRole.PROMPT)
        assert native.of("engine_switch_listener") == []

    @pytest.mark.rule("C1.4-34", "C1.4-36", "C1.4-37", "C1.4-38")
    def test_bad_arguments(self, open_datadist):
        datadist = open_datadist()
        for arguments in ((None,), ("PROMPT",), (LLMRole.MIX, [])):
            with pytest.raises(TypeError):
                datadist.switch_role(*arguments)
        with pytest.raises(TypeError, match=r"listenIpInfo only support str, got int"):
            datadist.switch_role(LLMRole.MIX, {"llm.listenIpInfo": 5})
        for text in ("", "1.2.3.4", "::1:5", "1.2.3.4:70000"):
            options = {"llm.listenIpInfo": text}
            assert_status(
                lambda o=options: datadist.switch_role(LLMRole.MIX, o), S.LLM_PARAM_INVALID
            )
        with pytest.raises(ValueError, match="invalid literal"):
            datadist.switch_role(LLMRole.MIX, {"llm.listenIpInfo": "1.2.3.4:x"})


class TestIntrospection:
    def test_listen_address(self, native, open_datadist):
        datadist = open_datadist()
        assert datadist.listen_address is None

        def describe(engine, info):
            info.listen_ip = b"::1"
            info.listen_port = 40000

        native.on("engine_describe", describe)
        assert datadist.listen_address == ("::1", 40000)

    def test_links_of_any_number(self, native, open_datadist):
        datadist = open_datadist()

        def links(engine, rows, capacity, count):
            count[0] = 40
            for index in range(min(40, capacity)):
                rows[index].peer_cluster_id = index
                rows[index].state = 1 + index % 3
                rows[index].is_initiator = index % 2
                rows[index].peer_address = b"127.0.0.1:1"
                rows[index].number = 0x3FA2B1C0
                rows[index].failures[0] = 2
                rows[index].last_error_us = 1500000
                rows[index].last_error_status = S.LLM_TIMEOUT
                rows[index].last_error = b"late"

        native.on("links", links)
        found = datadist.links()
        assert [each.peer_cluster_id for each in found] == list(range(40))
        plain = LinkInfo(1, LinkState.PEER_GONE, "127.0.0.1:1", True, 0, 0, 0, 0, 0)
        late = LastError(S.LLM_TIMEOUT, "late", 1.5)
        more = {"failures": {"LLM_TIMEOUT": 2}, "last_error": late, "number": "3fa2b1c0"}
        assert found[1] == replace(plain, **more)
        assert found[1].timeouts == 2
        assert len(native.of("links")) == 2

    def test_link_paths(self, native, open_datadist):
        datadist = open_datadist()

        def paths(engine, cluster_id, rows, capacity, count):
            count[0] = 1
            rows[0].memory = 2
            rows[0].path = b"cma"
            rows[0].reason = b"same host"

        native.on("link_paths", paths)
        assert datadist.link_paths(7) == [PathInfo(MemoryKind.REGISTERED, "cma", "same host")]
        assert native.last("link_paths")[1] == 7
        with pytest.raises(ValueError, match="cluster_id"):
            datadist.link_paths(-1)
        native.fail("link_paths", S.LLM_NOT_YET_LINK)
        assert_status(lambda: datadist.link_paths(7), S.LLM_NOT_YET_LINK)

    def test_counters(self, native, ffi, open_datadist):
        names = [name for name, _ in ffi.typeof("lldd_counters").fields]
        assert [each for each in names if each not in ("struct_size", "reserved")] == list(
            Counters.__dataclass_fields__
        )

        def counters(engine, struct):
            struct.pulls = 3
            struct.table_reads = 2**40

        native.on("engine_counters", counters)
        found = open_datadist().counters()
        assert (found.pulls, found.pushes, found.table_reads) == (3, 0, 2**40)
