# SPDX-License-Identifier: Apache-2.0
"""What this process may use of its host, as the mock runtime finds it out.

The runtime asks the same questions when it allocates, so there is one answer to each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_datadist._native.facade import Facade


@dataclass(frozen=True)
class AvailableMemory:
    """Bytes that new memory may take, and whose limit that is.

    ``where`` is "on this machine", or "in the control group FOLDER".
    """

    bytes: int
    where: str


@dataclass(frozen=True)
class UsableCpus:
    """CPUs by affinity, and whole CPUs that control groups pay for; None: there is no quota."""

    affinity: int
    quota: int | None


def available_memory() -> AvailableMemory:
    """Ask how much memory new processes may take, by the machine and by our control groups.

    Raises NativeLibraryError if the mock library does not load.
    """
    from llm_datadist._native import facade, libraries

    library = libraries.load("mock")
    return memory_of(facade.Facade(library.ffi, library.lib))


def memory_of(native: Facade) -> AvailableMemory:
    """Ask a library of the mock runtime how much memory is available."""
    told = _lines(native, "memory")
    return AvailableMemory(int(told["available"]), told["where"])


def cpus_of(native: Facade) -> UsableCpus:
    """Ask a library of the mock runtime how many CPUs copies may use."""
    told = _lines(native, "cpus")
    return UsableCpus(int(told["affinity"]), int(told["quota"]) if "quota" in told else None)


def _lines(native: Facade, command: str) -> dict[str, str]:
    from llm_datadist._native.control import control

    lines = control(native, command).splitlines()
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}
