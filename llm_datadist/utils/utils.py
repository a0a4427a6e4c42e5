# SPDX-License-Identifier: Apache-2.0
"""Compatibility: private checks of CANN's package that its tests and a few scripts import from here
(contract 1.1 and 1.2).

This package uses none of them. They are its own checks, but that None passes where the caller does
not forbid it.
"""

from __future__ import annotations

from typing import Any

from .._checks import (
    Types,
    check_elements,
    check_int32,
    check_int64,
    check_type,
    check_uint8,
    check_uint16,
    check_uint32,
    check_uint64,
)

__all__ = [
    "check_dict",
    "check_int32",
    "check_int64",
    "check_isinstance",
    "check_uint8",
    "check_uint16",
    "check_uint32",
    "check_uint64",
]


def check_isinstance(
    name: str,
    value: object,
    types: Types | list[type[Any]],
    element_types: Types | list[type[Any]] | None = None,
    allow_none: bool = True,
) -> None:
    """Compatibility: refuse what is not an instance of types.

    Args:
        name: of the argument, for the text.
        value: the argument.
        types: a class, or a tuple or list of classes.
        element_types: the same, of the elements of a list or tuple or of the keys of a dict; None:
            any.
        allow_none: whether None passes.

    Raises:
        TypeError: the argument has another type.

    Source: 1.2.
    """
    if value is None and allow_none:
        return
    types = tuple(types) if isinstance(types, list) else types
    check_type(name, value, types)
    if element_types is not None:
        elements = tuple(element_types) if isinstance(element_types, list) else element_types
        check_elements(name, value, elements, types)


def check_dict(
    name: str,
    value: object,
    key_types: Types,
    value_types: Types,
    allow_none: bool = True,
) -> None:
    """Compatibility: refuse what is not a dict of key_types to value_types.

    Args:
        name: of the argument, for the text.
        value: the argument.
        key_types: a class, or a tuple of classes.
        value_types: the same.
        allow_none: whether None passes.

    Raises:
        TypeError: the argument has another type.

    Source: 1.2.
    """
    if value is None and allow_none:
        return
    check_elements(name, value, key_types, dict)
    assert isinstance(value, dict)
    for key, each in value.items():
        check_type(f"{name}[{key!r}]", each, value_types)
