# SPDX-License-Identifier: Apache-2.0
"""A library in whose place the tests answer: real structs, functions of our own.

pytest-mock patches the facade, so everything above it is the package's own code. Structs are used
again after a call, so what a function is given is copied into plain values while the call runs.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llm_datadist import LLMConfig, LLMDataDist, LLMRole
from llm_datadist._native import _ffi, facade


@pytest.fixture
def ffi():
    return _ffi.ffi


class NativeDouble:
    """A Facade, and the calls it got as (name, arguments) with plain values."""

    def __init__(self, ffi):
        self.ffi = ffi
        self.calls = []
        self.statuses = {}
        self.detail = "the library's own text"
        self.raw = 0
        self.writers = {}
        # Plain functions: a Mock would keep the arguments alive, the engine's handle among them.
        declared = [name for name in dir(ffi.dlopen(None)) if name.startswith(facade.PREFIX)]
        functions = {name: self._answer(name[len(facade.PREFIX) :]) for name in declared}
        self.facade = facade.Facade(ffi, SimpleNamespace(**functions))
        self.facade.last_error = self._last_error
        self.facade.last_error_raw = lambda: self.raw
        self.on("engine_open", self._open)

    def _answer(self, name):
        def answer(*args):
            self.calls.append((name, tuple(self._plain(arg) for arg in args)))
            status = self.statuses.get(name, 0)
            if name in self.writers and not status:
                self.writers[name](*args)
            return status

        return answer

    def _last_error(self):
        self._text = self.ffi.new("char[]", self.detail.encode())
        return self._text

    def _open(self, config, out):
        out[0] = self.ffi.cast("lldd_engine *", 0x1000)

    def on(self, name, write):
        """Write out-arguments of a successful call."""
        self.writers[name] = write

    def fail(self, name, status):
        self.statuses[name] = status

    def of(self, name):
        """Return the arguments of all calls of a function."""
        return [args for called, args in self.calls if called == name]

    def last(self, name):
        return self.of(name)[-1]

    def _plain(self, value):
        """Copy a struct with what it points to; arrays as long as their count member says."""
        if not isinstance(value, self.ffi.CData):
            return value
        kind = self.ffi.typeof(value)
        if kind.kind == "pointer" and kind.item.kind == "struct" and value != self.ffi.NULL:
            return "engine" if kind.item.cname.endswith("lldd_engine") else self._struct(value[0])
        if kind.kind == "array" and kind.item.kind == "struct":
            return [self._struct(each) for each in value]
        if kind.kind == "array" and kind.item.cname == "uint64_t":
            return list(value)
        if kind.kind == "array" and kind.item.cname == "char":
            return self.ffi.string(value).decode()
        return None if value == self.ffi.NULL else value

    def _struct(self, struct):
        fields = dict(self.ffi.typeof(struct).fields)
        assert struct.struct_size == self.ffi.sizeof(self.ffi.typeof(struct))
        plain = {}
        for name, field in fields.items():
            member = getattr(struct, name)
            count = getattr(struct, f"num_{name}", None)
            if name == "members":
                count = struct.num_members
            if count is None and name in ("src_addrs", "dst_addrs", "addrs"):
                count = getattr(struct, "num_tensors", None)
            if count is None and field.type.cname == "uint64_t *":
                count = getattr(struct, "num_blocks", None)
            if field.type.kind == "pointer" and member == self.ffi.NULL:
                plain[name] = None
            elif field.type.kind == "pointer" and field.type.item.cname == "char":
                plain[name] = self.ffi.string(member).decode()
            elif name == "dims":
                plain[name] = self.ffi.unpack(member, struct.num_dims)
            elif field.type.kind == "pointer" and field.type.item.kind == "struct":
                if count is None:
                    plain[name] = self._struct(member[0])
                else:
                    plain[name] = [self._struct(member[index]) for index in range(count)]
            elif field.type.kind == "pointer":
                plain[name] = self.ffi.unpack(member, count) if count else []
            else:
                plain[name] = member
        return plain


@pytest.fixture
def native(ffi, mocker):
    double = NativeDouble(ffi)
    mocker.patch.object(facade, "current", return_value=double.facade)
    return double


@pytest.fixture
def open_datadist(native):
    """Make initialized LLMDataDist objects with options added to, finalized at the end."""
    made = []

    def make(cluster_id=1, role=LLMRole.DECODER, options=None, **members):
        config = LLMConfig()
        config.enable_cache_manager = True
        config.enable_remote_cache_accessible = True
        for name, value in members.items():
            setattr(config, name, value)
        datadist = LLMDataDist(role, cluster_id)
        made.append(datadist)
        datadist.init({**config.generate_options(), **(options or {})})
        return datadist

    yield make
    for datadist in made:
        datadist.finalize()


@pytest.fixture
def manager(open_datadist):
    """Return the CacheManager of a one-sided engine with both pools."""
    pool = '{"memory_size": 1048576}'
    return open_datadist(mem_pool_cfg=pool, host_mem_pool_cfg=pool).cache_manager


@pytest.fixture
def request_manager(open_datadist):
    """Return the CacheManager of an engine in request mode."""
    return open_datadist(enable_remote_cache_accessible=False).cache_manager
