# SPDX-License-Identifier: Apache-2.0
"""Status codes, the exceptions that carry them, and the way from a native status to one."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ._enums import NamedIntEnum
from .utils.log import get_logger

__all__ = [
    "LLMConfigValueError",
    "LLMDataDistWarning",
    "LLMException",
    "LLMFeatureNotEnabledError",
    "LLMNotExistError",
    "LLMOutOfMemoryError",
    "LLMParamInvalidError",
    "LLMStatusCode",
    "Status",
]


class LLMStatusCode(NamedIntEnum):
    """What became of a call; the numbers are those of the C interface (contract 2.1)."""

    LLM_SUCCESS = 0
    LLM_FAILED = 0xFFFFFFFF
    LLM_WAIT_PROCESS_TIMEOUT = 0x5010B001
    LLM_KV_CACHE_NOT_EXIST = 0x5010B002
    LLM_REPEAT_REQUEST = 0x5010B003
    LLM_REQUEST_ALREADY_COMPLETED = 0x5010B004
    LLM_PARAM_INVALID = 0x5010B005
    LLM_ENGINE_FINALIZED = 0x5010B006
    LLM_NOT_YET_LINK = 0x5010B007
    LLM_ALREADY_LINK = 0x5010B008
    LLM_LINK_FAILED = 0x5010B009
    LLM_UNLINK_FAILED = 0x5010B00A
    LLM_NOTIFY_PROMPT_UNLINK_FAILED = 0x5010B00B
    LLM_CLUSTER_NUM_EXCEED_LIMIT = 0x5010B00C
    LLM_PROCESSING_LINK = 0x5010B00D
    LLM_DEVICE_OUT_OF_MEMORY = 0x5010B00E
    LLM_PREFIX_ALREADY_EXIST = 0x5010B00F
    LLM_PREFIX_NOT_EXIST = 0x5010B010
    LLM_SEQ_LENOVERLIMIT = 0x5010B011
    LLM_NO_FREE_BLOCK = 0x5010B012
    LLM_BLOCKS_OUT_OF_MEMORY = 0x5010B013
    LLM_EXIST_LINK = 0x5010B018
    LLM_FEATURE_NOT_ENABLED = 0x5010B019
    LLM_TIMEOUT = 0x5010B01A
    LLM_LINK_BUSY = 0x5010B01B
    LLM_OUT_OF_MEMORY = 0x5010B01C
    LLM_DEVICE_MEM_ERROR = 507053
    LLM_SUSPECT_REMOTE_ERROR = 507057
    LLM_UNKNOWN_ERROR = -1


def code_of(number: int) -> LLMStatusCode:
    """Return the status code with this number; an unknown number is LLM_FAILED (contract 2.1)."""
    try:
        return LLMStatusCode(number)
    except ValueError:
        return LLMStatusCode.LLM_FAILED


class LLMDataDistWarning(UserWarning):
    """A call did what the interface says, which is probably not what the caller wants.

    Source: contract chapter 10.
    """


def warn(text: str) -> None:
    """Warn of a trap; the warning names the line of the client that called into this package."""
    warnings.warn(text, LLMDataDistWarning, stacklevel=_level_of_client())


_warned: set[str] = set()


def warn_once(subject: str, text: str) -> None:
    """Warn of a trap once per process for each subject, where every call would meet it again.

    A warning that is made an error is raised each time.
    """
    if subject not in _warned:
        warn(text)
        _warned.add(subject)


def _level_of_client() -> int:
    """Count the frames from warn() to the first one outside this package, or else the last."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    return level


def _is_ours(module: str) -> bool:
    return module == __package__ or module.startswith(f"{__package__}.")


class LLMException(RuntimeError):
    """A call failed.

    Args:
        args: as for RuntimeError, usually one text.
        status_code: an LLMStatusCode, or a number, which is LLM_FAILED when no code has it.
        raw: the number behind the status where a device gave one; by default that of status_code.

    Source: contract 2.2, decisions 29 and 41 (exceptions pickle).
    """

    def __init__(
        self,
        *args: object,
        status_code: int = LLMStatusCode.LLM_SUCCESS,
        raw: int | None = None,
    ) -> None:
        super().__init__(*args)
        self._status_code = code_of(status_code)
        self._raw = int(status_code) if raw is None else raw

    @property
    def status_code(self) -> LLMStatusCode:
        """The status as a code; LLM_SUCCESS when the exception was made without one."""
        return self._status_code

    @property
    def raw(self) -> int:
        """The number behind the status, also where no code has it and status_code is LLM_FAILED."""
        return self._raw

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self._status_code, self._raw), self.__dict__


def _rebuild(cls: type[LLMException], args: tuple[Any, ...], code: int, raw: int) -> LLMException:
    return cls(*args, status_code=code, raw=raw)


# The subclasses let a reader who knows Python but not this package write the except clause that
# this reader expects. TimeoutError and ConnectionError are left out on purpose: they are OSErrors,
# and clients that catch OSError around their own sockets must not swallow a failed transfer. So is
# ValueError: published clients catch it before LLMException, and a refused transfer would take
# another branch there than with CANN's package (decision 4).


class LLMParamInvalidError(LLMException):
    """LLM_PARAM_INVALID: an argument, or a combination of arguments, is refused. Not a ValueError.

    Source: decision 4.
    """


class LLMConfigValueError(LLMParamInvalidError, ValueError):
    """LLM_PARAM_INVALID of a setter of LLMConfig, where CANN's documents promise a ValueError.

    Source: decision 4.
    """


class LLMNotExistError(LLMException, LookupError):
    """LLM_KV_CACHE_NOT_EXIST or LLM_PREFIX_NOT_EXIST: no such cache here or at the peer."""


class LLMOutOfMemoryError(LLMException, MemoryError):
    """LLM_OUT_OF_MEMORY and its relatives: a pool or the device has no room."""


class LLMFeatureNotEnabledError(LLMException, NotImplementedError):
    """LLM_FEATURE_NOT_ENABLED: not possible with this configuration, device or version."""


_CLASSES: dict[LLMStatusCode, type[LLMException]] = {
    LLMStatusCode.LLM_PARAM_INVALID: LLMParamInvalidError,
    LLMStatusCode.LLM_KV_CACHE_NOT_EXIST: LLMNotExistError,
    LLMStatusCode.LLM_PREFIX_NOT_EXIST: LLMNotExistError,
    LLMStatusCode.LLM_OUT_OF_MEMORY: LLMOutOfMemoryError,
    LLMStatusCode.LLM_DEVICE_OUT_OF_MEMORY: LLMOutOfMemoryError,
    LLMStatusCode.LLM_BLOCKS_OUT_OF_MEMORY: LLMOutOfMemoryError,
    LLMStatusCode.LLM_NO_FREE_BLOCK: LLMOutOfMemoryError,
    LLMStatusCode.LLM_FEATURE_NOT_ENABLED: LLMFeatureNotEnabledError,
}


def error(text: str, status: int, raw: int = 0) -> LLMException:
    """Make the exception of a status: the class that fits, the code, and the raw number."""
    code = code_of(status)
    return _CLASSES.get(code, LLMException)(text, status_code=code, raw=raw or int(status))


def native_error(name: str, status: int, details: str, raw: int = 0) -> LLMException:
    """Make the exception of a function of the engine that failed.

    Args:
        name: of the operation, as the client knows it.
        status: what the library answered, not LLDD_SUCCESS.
        details: the library's own text (lldd_last_error).
        raw: the device's own number (lldd_last_error_raw); 0: there was none.

    Source: contract 1.2, "engine status".
    """
    code = code_of(status)
    details = details.rstrip(". ") or "no details"
    return error(f"[{name}] failed, error code is {code}, {details}.", status, raw)


class Status:
    """A status code as an object.

    Args:
        status: an LLMStatusCode.
    """

    def __init__(self, status: LLMStatusCode) -> None:
        self._status = status

    def is_ok(self) -> bool:
        """Tell whether the status is LLM_SUCCESS."""
        return self._status == LLMStatusCode.LLM_SUCCESS

    @property
    def status_code(self) -> LLMStatusCode:
        """The status given at construction."""
        return self._status


# Private helpers of CANN's module of this name, which its tests and a few scripts import (contract
# 1.1). This package uses none of them.


def code_2_status(code: int) -> LLMStatusCode:
    """Compatibility: return the status code with this number, LLM_FAILED for an unknown one."""
    return code_of(code)


def handle_llm_status(status: int, name: str, details: str) -> None:
    """Compatibility: raise the exception of a status that is not LLM_SUCCESS.

    Args:
        status: an LLMStatusCode or a number.
        name: of the operation.
        details: for the text.

    Raises:
        LLMException: status is not success.

    Source: 1.2, "engine status".
    """
    if status != LLMStatusCode.LLM_SUCCESS:
        raise native_error(name, status, details)


def raise_if_false(
    condition: object, text: str, status_code: int = LLMStatusCode.LLM_PARAM_INVALID
) -> None:
    """Compatibility: log the text at error level and raise it unless the condition holds.

    Args:
        condition: what must hold.
        text: of the exception.
        status_code: of the exception.

    Raises:
        LLMException: the condition does not hold.

    Source: 1.2.
    """
    if not condition:
        get_logger().error(text)
        raise error(text, status_code)


def raise_if_true(
    condition: object, text: str, status_code: int = LLMStatusCode.LLM_PARAM_INVALID
) -> None:
    """Compatibility: as raise_if_false, if the condition holds."""
    raise_if_false(not condition, text, status_code)
