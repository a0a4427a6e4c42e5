# SPDX-License-Identifier: Apache-2.0
"""C source of a library that has every function of the header and does nothing.

Each misbehaving library of the loader's tests is this one with a single thing changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Functions that the loader calls; the others only have to exist.
ANSWERED = (
    "lldd_version",
    "lldd_fingerprint",
    "lldd_layout",
    "lldd_runtime_describe",
    "lldd_status_name",
    "lldd_last_error",
)


@dataclass
class FakeLibrary:
    """What one fake library answers; the defaults are those of a good one."""

    parsed: object  # Declarations
    version: str = "LLDD_VERSION_MAJOR * 65536 + LLDD_VERSION_MINOR"
    fingerprint: int | None = None
    without: tuple[str, ...] = ()
    layout_rows: dict[tuple[str, str], str | None] = field(default_factory=dict)
    layout_pointer: str = "rows"
    describe_status: str = "LLDD_SUCCESS"
    devices: int = 1
    name: str = "fake"
    extra: str = ""

    def source(self) -> str:
        """Return the C source."""
        fingerprint = self.parsed.fingerprint if self.fingerprint is None else self.fingerprint
        bodies = {
            "lldd_version": f"uint32_t lldd_version(void) {{ return {self.version}; }}",
            "lldd_fingerprint": (
                f"uint64_t lldd_fingerprint(void) {{ return {fingerprint:#018x}ULL; }}"
            ),
            "lldd_layout": f"""
static const lldd_field rows[] = {{
{self._rows()}
}};
const lldd_field *lldd_layout(uint64_t *count) {{
    *count = sizeof rows / sizeof *rows;
    return {self.layout_pointer};
}}""",
            "lldd_runtime_describe": f"""
lldd_status lldd_runtime_describe(lldd_runtime_info *info) {{
    strcpy(info->name, "{self.name}");
    strcpy(info->version, "1.2.3");
    strcpy(info->description, "does nothing");
    info->device_count = {self.devices};
    info->capabilities = LLDD_CAN_HOST_REMOTE;
    return {self.describe_status};
}}""",
            "lldd_status_name": (
                'const char *lldd_status_name(lldd_status s) { (void)s; return "LLDD_FAILED"; }'
            ),
            "lldd_last_error": (
                'const char *lldd_last_error(void) { return "the device is on fire"; }'
            ),
        }
        written = [bodies[name] for name in ANSWERED if name not in self.without]
        # Defined without a prototype in scope would be refused, so: by assembler name.
        declared = [function.name for function in self.parsed.functions]
        idle = [name for name in declared if name not in (*ANSWERED, *self.without)]
        written += [
            f'int idle_{name}(void) __asm__("{name}"); int idle_{name}(void) {{ return 0; }}'
            for name in idle
        ]
        includes = "#include <stddef.h>\n#include <string.h>\n#include <llm_datadist.h>\n"
        return includes + "\n".join(written) + "\n" + self.extra + "\n"

    def _rows(self) -> str:
        rows: dict[tuple[str, str], str | None] = {}
        for name, members in self.parsed.structs:
            rows[name, ""] = f"0, sizeof({name})"
            for member in (each.name for each in members):
                rows[name, member] = f"offsetof({name}, {member}), sizeof((({name} *)0)->{member})"
        rows.update(self.layout_rows)
        return "\n".join(
            f'    {{"{name}", "{member}", {place}}},'
            for (name, member), place in rows.items()
            if place is not None
        )
