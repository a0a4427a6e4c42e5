# SPDX-License-Identifier: Apache-2.0
"""From the declarations to ``_ffi.pyi``: what a checker of Python types knows of the binding.

setup.py loads this file by its path before the package exists. cffi reads and writes a struct
through a pointer to it, so the stub has one class for both. It does not tell apart integers of
different sizes, nor an array from a pointer to its first element.
"""

from __future__ import annotations

from typing import Any

# What an integer, and a text's byte, is to Python.
_SCALARS = {
    "uint32_t": "int",
    "uint64_t": "int",
    "int32_t": "int",
    "int64_t": "int",
    "lldd_status": "int",
    # A member of a struct may be called bytes, and hides the type in what follows it there.
    "char": "builtins.bytes",
    "void": "None",
}
_PREFIX = "lldd_"

_HEAD = """\
# Generated from llm_datadist.h by llm_datadist/_native/stubs.py.
import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, Union, final, overload

_T = TypeVar("_T")

@final
class Null: ...

class Array(Generic[_T]):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_T]: ...
    def __getitem__(self, index: int, /) -> _T: ...
    def __setitem__(self, index: int, value: _T, /) -> None: ...

class CType:
    cname: str
    kind: str
    item: CType
    fields: Sequence[tuple[str, Any]]
"""

_FFI = """\
class FFI:
    NULL: Null
    CData: type[Any]
    RTLD_NOW: int
    RTLD_LOCAL: int
    error: type[Exception]
    def sizeof(self, cdecl: object, /) -> int: ...
    def typeof(self, cdecl: object, /) -> CType: ...
    def list_types(self) -> tuple[list[str], list[str], list[str]]: ...
    def string(self, chars: Union[Array[bytes], Null], maxlen: int = ..., /) -> bytes: ...
    def buffer(self, array: Array[Any], size: int = ..., /) -> Any: ...
    def from_buffer(self, ctype: object, buffer: Any, /) -> Array[int]: ...
    def unpack(self, array: Union[Array[_T], Null], length: int, /) -> list[_T]: ...
    def gc(self, pointer: _T, destructor: Callable[[_T], object], /) -> _T: ...
    def cast(self, cdecl: str, value: Any, /) -> Any: ...
    def dlopen(self, path: Union[str, None], flags: int = ..., /) -> Lib: ...
    def integer_const(self, name: Constant, /) -> int: ...
    @overload
    def new(
        self,
        cdecl: Literal[
            "uint64_t *", "int64_t *", "uint32_t *", "int32_t *", "uint64_t[]", "int64_t[]"
        ],
        init: Union[int, Sequence[int]] = ...,
        /,
    ) -> Array[int]: ...
    @overload
    def new(self, cdecl: Literal["char[]"], init: Union[int, bytes], /) -> Array[bytes]: ...
    @overload
    def new(self, cdecl: Literal["lldd_engine **"], /) -> Array[lldd_engine]: ...
    @overload
    def new(self, cdecl: Literal["lldd_token **"], /) -> Array[lldd_token]: ...
"""

_TAIL = """\
class Module(Protocol):
    __name__: str
    ffi: FFI
    FINGERPRINT: int
    SOURCES: int

ffi: FFI
FINGERPRINT: int
SOURCES: int
"""


# Types without members.
_OPAQUE = ("lldd_engine", "lldd_token")


def stub(declarations: Any) -> str:
    """Return the text of ``_ffi.pyi``.

    Args:
        declarations: of declarations.parse().
    """
    names = [struct.name for struct in declarations.structs]
    constants = ", ".join(f'"{name}"' for name in declarations.constants)
    parts = [_HEAD, *(f"class {name}: ...\n" for name in _OPAQUE)]
    for struct in declarations.structs:
        members = [f"    {each.name}: {_python_type(each)}\n" for each in struct.members]
        parts.append(f"class {struct.name}:\n" + "".join(members))
    parts.append(f"Constant = Literal[{constants}]\n")
    parts.append(_FFI + "".join(_overload(f"{name} *", name) for name in names))
    parts.append("class NewStruct(Protocol):\n" + "".join(map(_new_struct, names)))
    parts.append("class NewArray(Protocol):\n" + "".join(map(_new_array, names)))
    functions = [_function(each, each.name[len(_PREFIX) :]) for each in declarations.functions]
    parts.append("class Functions:\n" + "".join(functions))
    lib = [f"    {name}: int\n" for name in declarations.constants]
    lib += [_function(each, each.name) for each in declarations.functions]
    parts.append("class Lib:\n" + "".join(lib))
    return "\n".join([*parts, _TAIL])


def _overload(cdecl: str, made: str) -> str:
    return f'    @overload\n    def new(self, cdecl: Literal["{cdecl}"], /) -> {made}: ...\n'


def _new_struct(name: str) -> str:
    call = f'def __call__(self, ffi: FFI, name: Literal["{name}"], /)'
    return f"    @overload\n    {call} -> {name}: ...\n"


def _new_array(name: str) -> str:
    call = f'def __call__(self, ffi: FFI, name: Literal["{name}"], count: int, /)'
    return f"    @overload\n    {call} -> Array[{name}]: ...\n"


def _function(function: Any, name: str) -> str:
    arguments = "".join(f", {each.name}: {_argument_type(each)}" for each in function.arguments)
    returns = _python_type(function.returns)
    return f"    def {name}(self{arguments}, /) -> {returns}: ...\n".replace("(self, /)", "(self)")


def _argument_type(value: Any) -> str:
    # cffi makes a text of bytes for the time of a call.
    is_text = value.ctype == "char" and value.depth == 1
    return "Union[Array[bytes], bytes, Null]" if is_text else _python_type(value)


def _python_type(value: Any) -> str:
    """Return the Python type of a member, an argument or a result."""
    scalar = _SCALARS.get(value.ctype)
    if value.depth == 0:
        return _SCALARS[value.ctype]
    if value.depth == 2:
        return f"Array[{value.ctype}]"
    if scalar is not None:
        return f"Union[Array[{scalar}], Null]"
    if value.name == "token" and value.ctype == "lldd_token":
        return "Union[lldd_token, Null]"
    if value.ctype in _OPAQUE:
        return str(value.ctype)
    if not value.name:
        return f"Union[Array[{value.ctype}], Null]"  # the result of a function
    return f"Union[{value.ctype}, Array[{value.ctype}], Null]"
