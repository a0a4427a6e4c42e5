# SPDX-License-Identifier: Apache-2.0
"""Says what changed in an English page since its Chinese page was last compared with it.

    python docs/translations.py             what has changed
    python docs/translations.py --renew     the Chinese pages say what the English ones do: note it

docs/zh/compared.json has a digest of each section of the English pages, and of the Chinese pages.
``tests/package/test_translations.py`` fails while one of them has changed and nobody has compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ROOT / "docs" / "zh" / "compared.json"
COMMAND = "python docs/translations.py --renew"
# The Chinese page of each English one.
PAGES = {
    "README.md": "README.zh.md",
    "docs/quickstart.md": "docs/zh/quickstart.md",
    "docs/connector.md": "docs/zh/connector.md",
    "docs/errors.md": "docs/zh/errors.md",
    "docs/ascend.md": "docs/zh/ascend.md",
}
# The list of pages, which each language has for itself.
LISTS = {"README.md": "Where next"}
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"(#+) (.*)")


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def sections(text: str) -> dict[str, str]:
    """Return the text of each section by its heading; a second one of a name gets a number."""
    found: dict[str, str] = {}
    title, is_code = "", False
    for line in text.splitlines(keepends=True):
        is_code ^= line.startswith("```")
        heading = None if is_code else HEADING.match(line)
        if heading:
            title = heading[2]
            number = 2
            while title in found:
                title = f"{heading[2]} ({number})"
                number += 1
        found[title] = found.get(title, "") + line
    return found


def current() -> dict[str, dict[str, str]]:
    """Return the digests of all pages as they are."""
    digests: dict[str, dict[str, str]] = {}
    for english, chinese in PAGES.items():
        text = (ROOT / english).read_text(encoding="utf-8")
        parts = sections(text)
        parts.pop(LISTS.get(english, ""), None)
        digests[english] = {name: _digest(part) for name, part in parts.items()}
        text = (ROOT / chinese).read_text(encoding="utf-8")
        digests[chinese] = {"": _digest(text)}
    return digests


def _of_english(english: str, noted: dict[str, str], now: dict[str, str]) -> list[str]:
    words = {True: {True: "changed", False: "is new"}, False: {True: "is gone"}}
    return [
        f"{english}: the section {name!r} {words[name in now][name in noted]}: "
        f"{PAGES[english]} has to say the same"
        for name in {**noted, **now}
        if noted.get(name) != now.get(name)
    ]


def shape(text: str) -> dict[str, object]:
    """Return what a page and its translation have in common: code, headings, rows, items."""
    prose = CODE.sub("", text)
    return {
        "blocks of code": CODE.findall(text),
        "levels of headings": [len(level) for level in re.findall(r"^(#+) ", prose, re.MULTILINE)],
        "rows of tables": len(re.findall(r"^\|", prose, re.MULTILINE)),
        "items of lists": len(re.findall(r"^(?:- |\d+\. )", prose, re.MULTILINE)),
    }


def differences() -> list[str]:
    """Return a text for whatever has to be compared, or does not fit."""
    noted = json.loads(COMPARED.read_text(encoding="utf-8")) if COMPARED.exists() else {}
    now = current()
    found = []
    for english, chinese in PAGES.items():
        changed = _of_english(english, noted.get(english, {}), now[english])
        if not changed and noted.get(chinese) != now[chinese]:
            changed = [f"{chinese} changed, {english} has not"]
        found += changed
        shapes = [shape((ROOT / page).read_text(encoding="utf-8")) for page in (english, chinese)]
        if english in LISTS:
            for each in shapes:
                del each["items of lists"]
        for what, value in shapes[0].items():
            if value != shapes[1][what]:
                found.append(f"{chinese} has other {what} than {english}")
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["--renew"]:
        text = json.dumps(current(), ensure_ascii=False, indent=1, sort_keys=True)
        COMPARED.write_text(text + "\n", encoding="utf-8")
    else:
        print("\n".join(differences()) or "nothing has changed")
