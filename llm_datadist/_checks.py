# SPDX-License-Identifier: Apache-2.0
"""Argument checks with the exceptions of contract 1.2 and decision 30.

A wrong type is a TypeError that names the argument, None included unless it means "not given". A
number out of its range is a ValueError. What only this interface forbids is an LLMException with
LLM_PARAM_INVALID, logged at error level first. A bool passes where an int is asked for, with a
warning, and is a TypeError in strict-hardware mode (decision 63).
"""

from __future__ import annotations

import os
from typing import Any, Callable, NoReturn, Union

from .status import LLMConfigValueError, LLMStatusCode, error, warn_once
from .utils.log import get_logger

Types = Union[type[Any], tuple[type[Any], ...]]

STRICT_HARDWARE = "LLM_DATADIST_STRICT_HARDWARE"

UINT8_MAX = 2**8 - 1
MAX_MEMBERS = 4  # of a communicator
UINT16_MAX = 2**16 - 1
UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def _names(types: Types) -> str:
    return " or ".join(t.__name__ for t in (types if isinstance(types, tuple) else (types,)))


def wrong_type(name: str, value: object, expected: str) -> TypeError:
    """Make the TypeError of an argument."""
    return TypeError(f"{name} only support {expected}, got {type(value).__name__}: {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def is_strict_hardware() -> bool:
    """Read from the environment whether arguments are checked as strictly as on a device."""
    return os.environ.get(STRICT_HARDWARE, "0") not in ("", "0")


def _look_at_bool(name: str, value: bool, types: Types) -> None:
    """Warn of a bool that passes for an int, or refuse it in strict-hardware mode (decision 63)."""
    if bool in (types if isinstance(types, tuple) else (types,)):
        return
    if is_strict_hardware():
        raise wrong_type(name, value, _names(types))
    warn_once(
        f"bool for {name.partition('[')[0]}",
        f"{name} is {value}, where an int is asked for; it is taken, but the newest "
        "version of CANN refuses it",
    )


def check_type(name: str, value: object, types: Types) -> None:
    """Refuse what is not an instance of types, None included."""
    if not isinstance(value, types):
        raise wrong_type(name, value, _names(types))
    if isinstance(value, bool):
        _look_at_bool(name, value, types)


def check_optional(name: str, value: object, types: Types) -> None:
    """Refuse what is neither None nor an instance of types."""
    if value is not None:
        check_type(name, value, types)


def check_elements(
    name: str, value: Any, types: Types, container: Types = (list, tuple)
) -> list[Any]:
    """Refuse what is not a container of instances of types; for a dict its keys are looked at.

    Returns the elements as they were when the call took them: another thread of the client may
    change the container at any time, and a subclass of list may answer each question differently.
    """
    check_type(name, value, container)
    elements = list(value)
    for index, element in enumerate(elements):
        if not isinstance(element, types):
            raise wrong_type(f"{name}[{index}]", element, _names(types))
        if isinstance(element, bool):
            _look_at_bool(f"{name}[{index}]", element, types)
    return elements


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int:
        check_type(name, value, int)
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")


def check_uint8(name: str, value: Any) -> None:
    """Refuse what is not an int in [0, 2^8)."""
    _check_int(name, value, 0, UINT8_MAX)


def check_uint16(name: str, value: Any) -> None:
    """Refuse what is not an int in [0, 2^16)."""
    _check_int(name, value, 0, UINT16_MAX)


def check_uint32(name: str, value: Any) -> None:
    """Refuse what is not an int in [0, 2^32)."""
    _check_int(name, value, 0, UINT32_MAX)


def check_uint64(name: str, value: Any) -> None:
    """Refuse what is not an int in [0, 2^64)."""
    _check_int(name, value, 0, UINT64_MAX)


def check_int32(name: str, value: Any) -> None:
    """Refuse what is not an int in [-2^31, 2^31)."""
    _check_int(name, value, -INT32_MAX - 1, INT32_MAX)


def check_int64(name: str, value: Any) -> None:
    """Refuse what is not an int in [-2^63, 2^63)."""
    _check_int(name, value, -INT64_MAX - 1, INT64_MAX)


def refuse(text: str, status: LLMStatusCode = LLMStatusCode.LLM_PARAM_INVALID) -> NoReturn:
    """Log the text at error level and raise it with the status."""
    get_logger().error(text)
    raise error(text, status)


def refuse_setting(text: str) -> NoReturn:
    """Refuse the value of a member of LLMConfig, as refuse() and also as a ValueError."""
    get_logger().error(text)
    raise LLMConfigValueError(text, status_code=LLMStatusCode.LLM_PARAM_INVALID)


def check_no_null(name: str, text: str, refuse_with: Callable[[str], NoReturn] = refuse) -> None:
    """Refuse a text with a null character, at which the library would take it to end (decision
    72). The text is not shown: it may be a secret.
    """
    if "\0" in text:
        refuse_with(f"{name} must not have a null character")


def require(condition: object, text: str) -> None:
    """Refuse with LLM_PARAM_INVALID unless the condition holds; for texts that cost nothing to
    make.
    """
    if not condition:
        refuse(text)


def check_signs(name: str, blocks: Any) -> None:
    """Raise TypeError if blocks, with which the engine refused a transfer, has negative ids.

    Only a buffer can: in all other forms they were looked for before.
    """
    try:
        view = memoryview(blocks)
    except TypeError:
        return
    import numpy as np  # a refused transfer can wait for it, importing the package cannot

    # Not tolist(), which does not know the formats of ctypes.
    ids = np.asarray(view)
    if ids.dtype.kind == "i" and ids.size and ids.min() < 0:
        position = int(np.argmax(ids < 0))
        raise wrong_type(f"{name}[{position}]", int(ids[position]), "an integer in [0, 2^64)")


def check_layer_range(name: str, value: Any) -> None:
    """Refuse what is not a non-empty range with step 1 that starts at 0 or above (contract 1.9,
    "range rule").
    """
    check_type(name, value, range)
    if value.step != 1 or value.start < 0 or value.start >= value.stop:
        refuse(f"{name} must be a non-empty range with step 1 and start >= 0, got {value}")


def check_optional_layer_range(name: str, value: range | None) -> None:
    """As check_layer_range, and None is accepted."""
    if value is not None:
        check_layer_range(name, value)


def length(layers: range) -> int:
    """Count the layers of a checked range; len() fails for what a ssize_t does not hold."""
    return int(layers.stop - layers.start)


def check_members(cluster_rank_info: dict[int, int]) -> dict[int, int]:
    """Return the members of a communicator, cluster id to rank, as they are from now on."""
    check_type("cluster_rank_info", cluster_rank_info, dict)
    cluster_rank_info = dict(cluster_rank_info)
    for cluster_id, rank in cluster_rank_info.items():
        check_type("a cluster id of cluster_rank_info", cluster_id, int)
        check_type(f"cluster_rank_info[{cluster_id}]", rank, int)
    if len(cluster_rank_info) > MAX_MEMBERS:
        refuse(
            f"cluster_rank_info has {len(cluster_rank_info)} members, "
            f"at most {MAX_MEMBERS} are possible"
        )
    for cluster_id, rank in cluster_rank_info.items():
        check_uint64("a cluster id of cluster_rank_info", cluster_id)
        check_uint32(f"cluster_rank_info[{cluster_id}]", rank)
    return cluster_rank_info
