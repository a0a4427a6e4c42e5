# SPDX-License-Identifier: Apache-2.0
"""The mock library as it was built: exports, layout, and structs of other sizes."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest

from llm_datadist._native import loader


def test_exports_exactly_the_functions_of_the_header(mock_library, parsed):
    if shutil.which("nm") is None:
        pytest.skip("no nm on this machine (binutils)")
    result = subprocess.run(
        ["nm", "-D", "--defined-only", mock_library.path],
        text=True,
        capture_output=True,
        check=True,
    )
    exported = {line.split()[-1].partition("@")[0] for line in result.stdout.splitlines()}
    assert exported == {function.name for function in parsed.functions}


@pytest.mark.sanitize
def test_layout_is_the_compilers_own(mock_library, parsed):
    ffi, lib = mock_library.ffi, mock_library.lib
    count = ffi.new("uint64_t *")
    rows = ffi.unpack(lib.lldd_layout(count), count[0])
    assert count[0] == sum(1 + len(struct.members) for struct in parsed.structs)
    assert len(rows) == len(loader.expected_layout(ffi))


@pytest.mark.sanitize
def test_describes_itself(mock_library):
    from llm_datadist._version import __version__

    info = mock_library.info
    assert (info.name, info.version) == ("mock", __version__)
    assert info.device_count > 0
    assert info.description


@pytest.mark.sanitize
def test_names_every_status(mock_library, parsed):
    ffi, lib = mock_library.ffi, mock_library.lib
    start = list(parsed.constants).index("LLDD_SUCCESS")
    end = list(parsed.constants).index("LLDD_NOTICE_LEFT")
    for name in list(parsed.constants)[start : end + 1]:
        status = parsed.constants[name]
        assert ffi.string(lib.lldd_status_name(status)).decode() == name
    assert ffi.string(lib.lldd_status_name(12345)) == b"unknown status"


@pytest.fixture
def engine(mock_library):
    ffi, lib = mock_library.ffi, mock_library.lib
    config = ffi.new("lldd_config *")
    config.struct_size = ffi.sizeof(config[0])
    config.role = lib.LLDD_ROLE_MIX
    config.mode = lib.LLDD_MODE_ONE_SIDED
    config.rdma_traffic_class = config.rdma_service_level = lib.LLDD_UNSET
    config.device_pool_size = 1 << 20
    handle = ffi.new("lldd_engine **")
    status = lib.lldd_engine_open(config, handle)
    assert status == lib.LLDD_SUCCESS, ffi.string(lib.lldd_last_error())
    yield handle[0]
    lib.lldd_engine_free(handle[0])


def info_of(mock_library, engine, size, tail=b""):
    """What lldd_engine_describe returns, and writes into a struct of `size` bytes."""
    ffi, lib = mock_library.ffi, mock_library.lib
    room = ffi.new("char[]", 1024)
    ffi.memmove(room, b"\xee" * 1024, 1024)
    info = ffi.cast("lldd_engine_info *", room)
    info.struct_size = size
    return lib.lldd_engine_describe(engine, info), info, bytes(ffi.buffer(room, 1024))


@pytest.mark.sanitize
def test_an_out_struct_is_written_up_to_the_callers_size(mock_library, engine):
    ffi = mock_library.ffi
    full = ffi.sizeof("lldd_engine_info")
    small = ffi.offsetof("lldd_engine_info", "num_caches")
    for size in (small, full, full + 64):
        status, info, room = info_of(mock_library, engine, size)
        assert status == mock_library.lib.LLDD_SUCCESS
        assert info.struct_size == size
        assert info.role == mock_library.lib.LLDD_ROLE_MIX
        assert room[size:] == b"\xee" * (1024 - size)
        assert room[full:size] == bytes(max(0, size - full))


@pytest.mark.parametrize("size", [0, 4, 7, 16388, 0xFFFFFFFF])
def test_a_struct_size_that_cannot_be_served(mock_library, engine, size):
    ffi, lib = mock_library.ffi, mock_library.lib
    status, _, room = info_of(mock_library, engine, size)
    assert status == lib.LLDD_ABI_MISMATCH
    assert str(size) in ffi.string(lib.lldd_last_error()).decode()
    assert room[4:] == b"\xee" * 1020


def allocate(mock_library, engine, desc):
    ffi, lib = mock_library.ffi, mock_library.lib
    cache_id, addrs = ffi.new("int64_t *"), ffi.new("uint64_t[2]")
    status = lib.lldd_cache_allocate(engine, desc, ffi.NULL, 0, cache_id, addrs)
    return status, cache_id[0], list(addrs)


@pytest.mark.sanitize
@pytest.mark.parametrize(("tail", "accepted"), [(bytes(8), True), (bytes(7) + b"x", False)])
def test_a_larger_struct_must_have_a_zero_tail(mock_library, engine, tail, accepted):
    ffi, lib = mock_library.ffi, mock_library.lib
    size = ffi.sizeof("lldd_cache_desc")
    dims = ffi.new("int64_t[]", [4, 256])
    room = ffi.new("char[]", size + len(tail))
    desc = ffi.cast("lldd_cache_desc *", room)
    desc.struct_size = size + len(tail)
    desc.num_tensors, desc.layout, desc.placement = 2, lib.LLDD_LAYOUT_BLOCKS, 1
    desc.data_type, desc.num_dims, desc.dims = lib.LLDD_TYPE_INT8, 2, dims
    ffi.memmove(room + size, tail, len(tail))
    status, cache_id, addrs = allocate(mock_library, engine, desc)
    if accepted:
        assert (status, cache_id) == (lib.LLDD_SUCCESS, 1)
        assert all(addrs)
    else:
        assert (status, cache_id, addrs) == (lib.LLDD_ABI_MISMATCH, 0, [0, 0])
        assert "not zero" in ffi.string(lib.lldd_last_error()).decode()


@pytest.mark.parametrize(
    ("small", "batch_dim_index", "accepted", "notice"),
    [
        (True, 7, True, ""),
        (False, 0, True, ""),
        (False, 1, True, "batch_dim_index 1"),
        (False, 2, False, ""),
    ],
)
def test_the_batch_dim_of_a_description(
    mock_library, engine, small, batch_dim_index, accepted, notice
):
    ffi, lib = mock_library.ffi, mock_library.lib
    dims = ffi.new("int64_t[]", [4, 256])
    desc = ffi.new("lldd_cache_desc *")
    # As a caller has it whose header ends before the member.
    end = ffi.offsetof("lldd_cache_desc", "batch_dim_index") if small else ffi.sizeof(desc[0])
    desc.struct_size = end
    desc.num_tensors, desc.layout, desc.placement = 2, lib.LLDD_LAYOUT_CONTIGUOUS, 1
    desc.data_type, desc.num_dims, desc.dims = lib.LLDD_TYPE_INT8, 2, dims
    desc.batch_dim_index = batch_dim_index
    status, _, _ = allocate(mock_library, engine, desc)
    assert status == (lib.LLDD_SUCCESS if accepted else lib.LLDD_PARAM_INVALID)
    if not accepted:
        text = ffi.string(lib.lldd_last_error()).decode()
        assert "batch_dim_index is 2, it must be below num_dims, 2" in text
    chars, length = ffi.new("char[]", 200), ffi.new("uint64_t *")
    assert lib.lldd_engine_next_notice(engine, chars, 200, length) == lib.LLDD_SUCCESS
    assert notice in ffi.string(chars).decode()
    assert bool(length[0]) == bool(notice)


def test_a_smaller_struct_lacks_what_it_lacks(mock_library):
    """A config that ends before the pools opens an engine without one."""
    ffi, lib = mock_library.ffi, mock_library.lib
    config = ffi.new("lldd_config *")
    config.struct_size = ffi.offsetof("lldd_config", "device_pool_size")
    config.role = lib.LLDD_ROLE_MIX
    config.device_pool_size = 1 << 20
    handle = ffi.new("lldd_engine **")
    assert lib.lldd_engine_open(config, handle) == lib.LLDD_SUCCESS
    assert lib.lldd_cache_deallocate(handle[0], 1) == lib.LLDD_FEATURE_NOT_ENABLED
    lib.lldd_engine_free(handle[0])


def test_a_closed_engine_answers_a_status(mock_library, engine, parsed):
    """Every function that takes an engine, whatever its other arguments are."""
    ffi, lib = mock_library.ffi, mock_library.lib
    calls = {
        name: [ffi.cast(kind, 0) for kind in ffi.typeof(getattr(lib, name)).args[1:]]
        for name in (function.name for function in parsed.functions)
        if ffi.typeof(getattr(lib, name)).args[:1] == (ffi.typeof("lldd_engine *"),)
    }
    del calls["lldd_engine_free"]
    assert calls.pop("lldd_engine_close") == []
    assert len(calls) > 15
    assert lib.lldd_engine_close(engine) == lib.LLDD_SUCCESS
    assert lib.lldd_engine_close(engine) == lib.LLDD_SUCCESS
    for name, nothing in calls.items():
        assert getattr(lib, name)(engine, *nothing) == lib.LLDD_ENGINE_FINALIZED, name
        assert "closed" in ffi.string(lib.lldd_last_error()).decode()


@pytest.mark.rule("C10-210")
@pytest.mark.parametrize("timeout_ms", [0x80000000, 0xFFFFFFFE])
def test_a_peer_timeout_that_no_socket_takes(mock_library, timeout_ms):
    lib, ffi = mock_library.lib, mock_library.ffi
    config = ffi.new("lldd_config *")
    config.struct_size = ffi.sizeof("lldd_config")
    config.role = 1
    config.peer_timeout_ms = timeout_ms
    assert lib.lldd_engine_open(config, ffi.new("lldd_engine **")) == 0x5010B005
    assert b"peer_timeout_ms is " in ffi.string(lib.lldd_last_error())


def test_a_link_that_fails_names_the_cluster_that_was_asked_for(mock_library, engine):
    ffi, lib = mock_library.ffi, mock_library.lib
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = ffi.new("char[]", b"127.0.0.1")
        address = ffi.new("lldd_address *", {"struct_size": ffi.sizeof("lldd_address")})
        address.ip, address.port = host, closed.getsockname()[1]
        cluster = ffi.new("lldd_cluster *", {"struct_size": ffi.sizeof("lldd_cluster")})
        cluster.flags, cluster.remote_cluster_id = lib.LLDD_CLUSTER_HAS_ID, 5
        cluster.remote, cluster.num_remote = address, 1
        size = ffi.sizeof("lldd_cluster_result")
        result = ffi.new("lldd_cluster_result *", {"struct_size": size})
        assert lib.lldd_link_clusters(engine, cluster, 1, 1000, result) == lib.LLDD_LINK_FAILED
        assert (result.status, result.remote_cluster_id) == (lib.LLDD_LINK_FAILED, 5)


@pytest.mark.parametrize("member", ["src_blocks", "dst_blocks"])
@pytest.mark.parametrize("call", ["pull", "push", "transfer_layer"])
def test_a_list_of_blocks_that_is_not_there(mock_library, engine, call, member):
    ffi, lib = mock_library.ffi, mock_library.lib
    key = ffi.new("lldd_cache_key *", {"struct_size": ffi.sizeof("lldd_cache_key")})
    key.kind = lib.LLDD_KEY_BLOCKS
    struct = f"lldd_{call.partition('_')[0]}_args"
    args = ffi.new(f"{struct} *", {"struct_size": ffi.sizeof(struct), "key": key})
    setattr(args, f"num_{member}", 3)
    more = [ffi.NULL] if call == "push" else []
    assert getattr(lib, f"lldd_{call}")(engine, args, *more) == lib.LLDD_PARAM_INVALID
    assert member in ffi.string(lib.lldd_last_error()).decode()


@pytest.mark.rule("C10-75")
def test_an_empty_auth_token_does_not_switch_authentication_off(mock_library):
    ffi, lib = mock_library.ffi, mock_library.lib
    config = ffi.new("lldd_config *")
    config.struct_size = ffi.sizeof(config[0])
    config.role = lib.LLDD_ROLE_MIX
    config.rdma_traffic_class = config.rdma_service_level = lib.LLDD_UNSET
    handle = ffi.new("lldd_engine **")
    # What C sees of a token that begins with a null character.
    token = config.auth_token = ffi.new("char[]", b"\0secret")
    assert lib.lldd_engine_open(config, handle) == lib.LLDD_PARAM_INVALID
    assert b"auth_token is empty" in ffi.string(lib.lldd_last_error())
    del token
    assert handle[0] == ffi.NULL
