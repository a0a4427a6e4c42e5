# SPDX-License-Identifier: Apache-2.0
"""The kinds of members that LLMConfig has: what may be set, which option it becomes, and how an
engine reads that option.

Each member stands once, in LLMConfig; the members of that class are the table of options. A client
may also write into the options dict by hand, so ``read`` checks everything again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Optional, TypeVar, Union, cast, overload

from ._checks import (
    INT32_MAX,
    UINT32_MAX,
    UINT64_MAX,
    check_elements,
    check_no_null,
    check_optional,
    check_type,
    check_uint32,
    refuse,
    refuse_setting,
    wrong_type,
)
from .status import warn

Shown = TypeVar("Shown")
Given = TypeVar("Given")
AnyMember = TypeVar("AnyMember", bound="Member[Any, Any]")
Devices = Union[int, list[int], tuple[int, ...]]
Options = Mapping[str, str]

DEFAULT_PAGE_SHIFT = 16
DEFAULT_SYNC_TIMEOUT_MS = 1000
DEFAULT_FINALIZE_TIMEOUT_MS = 10_000
DEFAULT_PEER_TIMEOUT_MS = 15000


@dataclass(frozen=True)
class PoolOptions:
    """A memory pool: bytes, and log2 of the page's bytes. Size 0: no pool."""

    size: int = 0
    page_shift: int = DEFAULT_PAGE_SHIFT


class Member(Generic[Shown, Given]):
    """One member of LLMConfig: a property that checks what is set, and a row of the table.

    Args:
        keys: the options that it becomes, by their keys in the dict.
        unset: what it shows before it is set, and after it is set to None.
        doc: what it means; the docstring of the property.

    ``accepts`` says in words what may be set, ``default`` what an engine takes without the option.
    """

    name: str
    accepts: str
    default: str

    def __init__(self, *keys: str, unset: Shown, doc: str) -> None:
        self.keys = keys
        self.unset = unset
        self.__doc__ = doc

    @property
    def key(self) -> str:
        """The option that an engine reads."""
        return self.keys[0]

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    @overload
    def __get__(self: AnyMember, config: None, owner: type[Any]) -> AnyMember: ...
    @overload
    def __get__(self, config: object, owner: type[Any]) -> Shown: ...
    def __get__(self, config: Any, owner: type[Any]) -> Any:
        return self if config is None else self.shown(config._values)

    def __set__(self, config: Any, value: Given) -> None:
        config._values[self.name] = self.checked(value)

    def shown(self, values: dict[str, Any]) -> Shown:
        """Return what a client reads."""
        value = values.get(self.name)
        return self.unset if value is None else cast(Shown, value)

    def checked(self, value: Any) -> Any:
        """Return the value as it is kept; raises what a setter raises."""
        raise NotImplementedError

    def options(self, value: Any) -> dict[str, str]:
        """Return the options that a value becomes; None: the member is not set."""
        return {} if value is None else {self.key: str(value)}


class Text(Member[str, Optional[str]]):
    """A text; an empty one is left out of the options unless ``even_if_empty``."""

    accepts = "str"
    default = "none"

    def __init__(self, key: str, doc: str, *, even_if_empty: bool = False) -> None:
        super().__init__(key, unset="", doc=doc)
        self._even_if_empty = even_if_empty

    def checked(self, value: Any) -> Any:
        """Refuse what is no text, or has a null character."""
        check_optional(self.name, value, str)
        if value is not None:
            check_no_null(self.name, value, refuse_setting)
        return value

    def options(self, value: Any) -> dict[str, str]:
        """Return the text as an option, or nothing."""
        return super().options(value) if value or self._even_if_empty else {}

    def read(self, options: Options) -> str | None:
        """Return the text that the options have; None: none, or an empty one."""
        return options.get(self.key) or None


class _HiddenText(str):
    """A text that a log or a traceback of the options dict does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Secret(Text):
    """A text that is not shown by repr and logs."""

    def shown(self, values: dict[str, Any]) -> str:
        """Return a plain text: the client asked for it."""
        return str(super().shown(values))

    def checked(self, value: Any) -> Any:
        """Hide it."""
        text = super().checked(value)
        return _HiddenText(text) if text else text

    def options(self, value: Any) -> dict[str, str]:
        """Return the hidden text as an option, or nothing."""
        return {self.key: value} if value else {}


def read_json(text: str) -> Any:
    """Read JSON; raises json.JSONDecodeError, also for what is nested too deeply to be read, and
    for a number that Python refuses for its length.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
    except ValueError as cause:
        raise json.JSONDecodeError(str(cause), text, 0) from None


class Pool(Text):
    """A pool of memory, as JSON, which only the engine reads: contract 3.3."""

    accepts = 'str, JSON: {"memory_size": bytes, "page_shift": 10..30}'
    default = f"no pool; page_shift {DEFAULT_PAGE_SHIFT}"

    def pool(self, options: Options) -> PoolOptions:
        """Return the pool that the options describe."""
        if self.key not in options:
            return PoolOptions()
        try:
            pool = read_json(options[self.key])
        except ValueError as cause:
            refuse(f"{self.key} is not JSON: {cause}")
        if not isinstance(pool, dict):
            refuse(f"{self.key} must be a JSON object, got {options[self.key]!r}")
        size: Any = pool.get("memory_size")
        shift: Any = pool.get("page_shift", DEFAULT_PAGE_SHIFT)
        if not _is_unsigned(size):
            refuse(f"{self.key}: memory_size must be an unsigned integer, got {size!r}")
        if not _is_unsigned(shift) or not 10 <= shift < 31:
            refuse(f"{self.key}: page_shift must be an integer in [10, 31), got {shift!r}")
        if (1 << shift) > size:
            refuse(f"{self.key}: a page of {1 << shift} bytes is larger than the pool of {size}")
        if (size >> shift) >= UINT32_MAX:
            refuse(f"{self.key}: {size} bytes are too many pages of {1 << shift} bytes")
        return PoolOptions(size, shift)


class Flag(Member[bool, Optional[bool]]):
    """True or False; with ``only_if_true`` False is left out of the options."""

    accepts = "bool"
    default = "False"

    def __init__(self, key: str, doc: str, *, only_if_true: bool = False) -> None:
        super().__init__(key, unset=False, doc=doc)
        self._only_if_true = only_if_true

    def checked(self, value: Any) -> Any:
        """Refuse what is no bool."""
        check_optional(self.name, value, bool)
        return value

    def options(self, value: Any) -> dict[str, str]:
        """Return "1" or "0" as an option, or nothing."""
        left_out = value is None or (self._only_if_true and not value)
        return {} if left_out else {self.key: "1" if value else "0"}

    def read(self, options: Options) -> bool:
        """Return what the options say; False without the key."""
        value = options.get(self.key, "0")
        if value not in ("0", "1"):
            refuse(f"{self.key} must be 0 or 1, got {value!r}")
        return value == "1"


class Number(Member[int, Optional[int]]):
    """An int in [low, high].

    Args:
        key, doc: as of Member.
        low, high: what a setter allows.
        default: without the option.
        most: what the engine allows, if that is less than high.
    """

    def __init__(
        self, key: str, doc: str, low: int, high: int, default: int, *, most: int | None = None
    ) -> None:
        super().__init__(key, unset=default, doc=doc)
        self._low, self._high = low, high
        self._most = high if most is None else most
        self.accepts = f"int in [{low}, {high}]"
        if most is not None:
            self.accepts += f"; an engine takes {most} at most"
        self.default = str(default)

    def checked(self, value: Any) -> Any:
        """Refuse what is no int, or out of range."""
        check_optional(self.name, value, int)
        if value is not None and not self._low <= value <= self._high:
            refuse_setting(f"{self.name} must be in [{self._low}, {self._high}], got {value}")
        return value

    def read(self, options: Options) -> int:
        """Return the number that the options have, or the default."""
        return read_number(options, self.key, self._low, self._most, self.unset)


class Uint32(Member[Optional[int], int]):
    """A uint32 that cannot be taken back by None."""

    accepts = f"int in [0, {UINT32_MAX}]"
    default = "the runtime's own"

    def __init__(self, key: str, doc: str) -> None:
        super().__init__(key, unset=None, doc=doc)

    def checked(self, value: Any) -> Any:
        """Refuse what is no uint32."""
        check_uint32(self.name, value)
        return value

    def read(self, options: Options) -> int | None:
        """Return the number that the options have, if they have one."""
        return read_number(options, self.key, 0, UINT32_MAX, 0) if self.key in options else None


class AnyNumber(Member[Optional[int], Optional[int]]):
    """An int that nothing reads."""

    accepts = "int"
    default = "none"

    def __init__(self, key: str, doc: str) -> None:
        super().__init__(key, unset=None, doc=doc)

    def checked(self, value: Any) -> Any:
        """Refuse what is no int."""
        check_optional(self.name, value, int)
        return value


class Fraction(Member[float, Optional[float]]):
    """A float in [0, 1], which always becomes an option."""

    accepts = "float in [0, 1]"

    def __init__(self, key: str, doc: str, default: float) -> None:
        super().__init__(key, unset=default, doc=doc)
        self.default = str(default)

    def checked(self, value: Any) -> Any:
        """Refuse what is no float, or out of range."""
        check_optional(self.name, value, float)
        if value is not None and not 0 <= value <= 1:
            refuse_setting(f"{self.name} must be in [0, 1], got {value}")
        return value

    def options(self, value: Any) -> dict[str, str]:
        """Return the number as an option, the default if it is not set."""
        return super().options(self.unset if value is None else value)


class Timeout(Member[Union[int, str, None], Union[int, str, None]]):
    """Milliseconds, as a positive int32 or its digits."""

    accepts = f"int, or str of digits, in [1, {INT32_MAX}]"

    def __init__(self, key: str, doc: str, default: int) -> None:
        super().__init__(key, unset=None, doc=doc)
        self._default = default
        self.default = str(default)

    def checked(self, value: Any) -> Any:
        """Refuse what is neither an int nor digits, or out of range."""
        check_optional(self.name, value, (int, str))
        if value is not None:
            if isinstance(value, str) and not is_digits(value):
                refuse_setting(f"{self.name} must be digits, got {value!r}")
            if int(value) <= 0:
                refuse_setting(f"{self.name} must be positive, got {value}")
            if int(value) > INT32_MAX:
                raise ValueError(f"{self.name} must be in [1, {INT32_MAX}], got {value}")
        return value

    def read(self, options: Options) -> int:
        """Return the milliseconds that the options have, or the default; 0, of which no rule says
        what it means, is the default.
        """
        timeout_ms = read_number(options, self.key, 0, INT32_MAX, self._default)
        if timeout_ms == 0:
            warn(f"{self.key} is 0: the default of {self._default} ms is used")
            return self._default
        return timeout_ms


class DeviceIds(Member[Optional[Devices], Devices]):
    """One device or several; the second option names the first of them."""

    accepts = f"int in [0, {INT32_MAX}], or list or tuple of such"
    default = "0"

    def __init__(self, key: str, first_key: str, doc: str) -> None:
        super().__init__(key, first_key, unset=None, doc=doc)

    def checked(self, value: Any) -> Any:
        """Refuse what is neither an int nor a list or tuple of int, or out of range."""
        if not isinstance(value, (int, list, tuple)):
            raise wrong_type(self.name, value, "int, or list or tuple of int")
        devices = [value] if isinstance(value, int) else value
        check_elements(self.name, devices, int)
        for device in devices:
            if device < 0:
                refuse_setting(f"{self.name} must not be negative, got {device}")
            if device > INT32_MAX:
                raise ValueError(f"{self.name} must be in [0, {INT32_MAX}], got {device}")
        return value

    def options(self, value: Any) -> dict[str, str]:
        """Return "0;1" and "0" as options; raises IndexError for no device."""
        if value is None:
            return {}
        devices = [value] if isinstance(value, int) else value
        key, first_key = self.keys
        return {key: ";".join(str(device) for device in devices), first_key: str(devices[0])}

    def read(self, options: Options) -> int:
        """Return the one device that the options have, or the default."""
        return read_number(options, self.key, 0, INT32_MAX, 0)


class FurtherOptions(Member["dict[str, str]", "Optional[dict[str, str]]"]):
    """A dict of options, which are taken over as they are."""

    accepts = "dict of str to str"
    default = "{}"

    def __init__(self, doc: str) -> None:
        super().__init__(unset={}, doc=doc)

    def shown(self, values: dict[str, Any]) -> dict[str, str]:
        """Return the dict itself, which a client may fill."""
        return cast("dict[str, str]", values.setdefault(self.name, {}))

    def checked(self, value: Any) -> Any:
        """Refuse what is no dict of texts."""
        check_optional(self.name, value, dict)
        for key, text in (value or {}).items():
            check_type(f"a key of {self.name}", key, str)
            check_type(f"{self.name}[{key!r}]", text, str)
            check_no_null(f"a key of {self.name}", key, refuse_setting)
            check_no_null(f"{self.name}[{key!r}]", text, refuse_setting)
        return value or {}

    def options(self, value: Any) -> dict[str, str]:
        """Return them."""
        return value or {}


def is_digits(text: str) -> bool:
    """Tell whether a text is a number of ASCII digits."""
    return text.isascii() and text.isdigit()


def read_number(options: Options, key: str, low: int, high: int, default: int) -> int:
    """Return the number that the options have; raises LLMException with LLM_PARAM_INVALID."""
    text = options.get(key)
    if text is None:
        return default
    # More digits than any limit has are refused before int(), which is slow on megabytes of them.
    if not is_digits(text) or len(text) > 20 or not low <= int(text) <= high:
        refuse(f"{key} must be an integer in [{low}, {high}], got {text[:40]!r}")
    return int(text)


def _is_unsigned(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= UINT64_MAX
