# SPDX-License-Identifier: Apache-2.0
"""Writes docs/fidelity.md: every rule of the contract, and the tests that hold it.

The rules are the tags of docs/contract/*.md, the tests those that carry the marker `rule` with a
rule's id. Both are read as text, so that the page is the same on every machine and no test has to
be importable.

    [C4.2-6]                     held by at least one test with pytest.mark.rule("C4.2-6")
    [C4.2-7 untested: hardware]  not tested, and why
    [C4.2-8 differs: C10-7]      differs from CANN by a decision of chapter 10, whose tests hold it
    [C4.3-16 differs: deviation, ...]    ... by one of docs/deviations.md
    [C9-2 as: C1.4-5, C1.4-6]    says again what other rules say, and is held by their tests

Usage: python docs/fidelity.py
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ROOT / "docs" / "contract"
DEVIATIONS = ROOT / "docs" / "deviations.md"
PAGE = ROOT / "docs" / "fidelity.md"
TESTS = ROOT / "tests"
COMMAND = "python docs/fidelity.py"

DECISIONS = "10"
HEADING = re.compile(r"#+ (?P<number>\d+(?:\.\d+)*)\.? (?P<title>.*)")
ID = r"C\d+(?:\.\d+)*-\d+"
TAG = re.compile(
    rf"\[(?P<id>{ID})(?: (?P<kind>untested|differs|as): ?(?P<detail>[^\[\]]+))?\]", re.DOTALL
)
# What was meant to be a tag and is none, so that a slip does not pass for prose.
LIKE_A_TAG = re.compile(r"\[C\d[^\[\]]*\]")


@dataclass
class Rule:
    """One tag; kind is "untested", "differs", "as", or "" for a rule with tests of its own."""

    id: str
    kind: str
    detail: str

    @property
    def chapter(self) -> int:
        """The number of the chapter, as the id has it."""
        return int(re.split(r"[.-]", self.id[1:])[0])

    @property
    def is_deviation(self) -> bool:
        """Whether one of docs/deviations.md has the reason, not a decision of chapter 10."""
        return self.kind == "differs" and self.detail.startswith("deviation")

    @property
    def targets(self) -> list[str]:
        """The ids that a differing or repeated rule names."""
        return re.findall(ID, self.detail) if self.kind in ("differs", "as") else []


@dataclass
class Section:
    """A numbered heading, the text up to the next one, and the tags in it."""

    number: str
    title: str
    path: Path
    text: str = ""
    rules: list[Rule] = field(default_factory=list)


@dataclass(frozen=True)
class Test:
    """A test function of a file: name is Class.function where it is in a class."""

    path: str
    name: str


@dataclass
class Fidelity:
    """The contract and the tests, joined by the ids."""

    sections: list[Section]
    tests: dict[str, list[Test]]
    # (chapter, text), chapter 0 where it concerns none.
    problems: list[tuple[int, str]]

    @property
    def rules(self) -> dict[str, Rule]:
        """Every rule by its id, in the order of the contract."""
        return {rule.id: rule for section in self.sections for rule in section.rules}


# ---- reading ----


def read_sections(folder: Path, problems: list[tuple[int, str]]) -> list[Section]:
    """Read the numbered sections of all chapters, and the tags in them."""
    sections: list[Section] = []
    for path in sorted(folder.glob("[0-9]*.md")):
        in_code = False
        for line in path.read_text(encoding="utf-8").splitlines():
            in_code ^= line.startswith("```")
            heading = None if in_code else HEADING.match(line)
            if heading:
                sections.append(Section(heading["number"], heading["title"], path))
            elif sections:
                sections[-1].text += line + "\n"
    seen: set[str] = set()
    for section in sections:
        chapter = int(section.number.split(".")[0])
        tags = list(TAG.finditer(section.text))
        places = {tag.start() for tag in tags}
        for like in LIKE_A_TAG.finditer(section.text):
            if like.start() not in places:
                problems.append((chapter, f"{like.group()} is no tag"))
        for tag in tags:
            rule = Rule(tag["id"], tag["kind"] or "", " ".join((tag["detail"] or "").split()))
            if rule.id in seen:
                problems.append((chapter, f"{rule.id} stands twice"))
            elif rule.id.rpartition("-")[0] != f"C{section.number}":
                problems.append((chapter, f"{rule.id} stands in section {section.number}"))
            seen.add(rule.id)
            section.rules.append(rule)
    return sections


def _is_rule_marker(node: ast.AST) -> bool:
    # pytest.mark.rule(...), or rule(...) in a file that gives the marker this name.
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id == "rule"
    return ast.unparse(node.func) == "pytest.mark.rule"


def _markers(nodes: list[ast.expr]) -> Iterator[ast.Call]:
    # All the way down: parameters carry markers too, as pytest.param(..., marks=...).
    for node in nodes:
        for inner in ast.walk(node):
            if _is_rule_marker(inner):
                assert isinstance(inner, ast.Call)
                yield inner


def _pytestmark(body: list[ast.stmt]) -> list[ast.expr]:
    return [
        statement.value
        for statement in body
        if isinstance(statement, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in statement.targets)
    ]


def _ids(marker: ast.Call) -> list[str]:
    """Read the ids of a marker; [] when they are no texts, or need more than the marker itself."""
    # Evaluated, so that *(f"C5.1-{n}" for n in range(1, 8)) is a list of ids as well.
    expression = ast.Expression(ast.Tuple(marker.args, ast.Load()))
    code = compile(ast.fix_missing_locations(expression), "a rule marker", "eval")
    try:
        ids = list(eval(code, {"__builtins__": {"range": range}}))
    except NameError:
        return []
    return ids if all(isinstance(each, str) for each in ids) else []


def _marked_tests(
    body: list[ast.stmt], prefix: str = "", inherited: tuple[ast.Call, ...] = ()
) -> Iterator[tuple[str, list[ast.Call]]]:
    """Yield each test of a module or class with its own markers and those it inherits."""
    inherited += tuple(_markers(_pytestmark(body)))
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            own = tuple(_markers(node.decorator_list))
            yield from _marked_tests(node.body, f"{prefix}{node.name}.", inherited + own)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield prefix + node.name, [*inherited, *_markers(node.decorator_list)]


def read_tests(folder: Path, problems: list[tuple[int, str]]) -> dict[str, list[Test]]:
    """Read which tests carry which ids."""
    held: dict[str, list[Test]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        name = path.relative_to(folder.parent).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        used: set[ast.AST] = set()
        for test_name, markers in _marked_tests(tree.body):
            used.update(markers)
            for rule_id in dict.fromkeys(each for marker in markers for each in _ids(marker)):
                held.setdefault(rule_id, []).append(Test(name, test_name))
        for node in filter(_is_rule_marker, ast.walk(tree)):
            assert isinstance(node, ast.Call)
            place = f"{name}:{node.lineno}"
            if node not in used:
                problems.append((0, f"{place}: a rule marker that stands at no test"))
            if node.keywords or not _ids(node):
                problems.append((0, f"{place}: a rule marker takes ids as plain texts"))
    return held


def _places(tests: list[Test]) -> str:
    return ", ".join(f"{test.path}::{test.name}" for test in tests)


def read(contract: Path = CONTRACT, tests: Path = TESTS) -> Fidelity:
    """Read the contract and the tests, and list everything that does not fit."""
    problems: list[tuple[int, str]] = []
    result = Fidelity(read_sections(contract, problems), read_tests(tests, problems), problems)
    rules = result.rules
    for section in result.sections:
        # A heading with only sections below it has nothing to say itself.
        if section.text.strip() and not section.rules:
            chapter = int(section.number.split(".")[0])
            problems.append((chapter, f"section {section.number} has no ids"))
    for rule in rules.values():
        tests_of_it = result.tests.get(rule.id, [])
        if not rule.kind and not tests_of_it:
            problems.append((rule.chapter, f"{rule.id} has neither a test nor a reason"))
        if rule.kind in ("untested", "as") and tests_of_it:
            text = f"{rule.id} is tagged {rule.kind!r}, but {_places(tests_of_it)} has it"
            problems.append((rule.chapter, text))
        if rule.kind in ("differs", "as") and not rule.targets and not rule.is_deviation:
            problems.append((rule.chapter, f"{rule.id} {rule.kind}: {rule.detail!r} is no id"))
        for target in rule.targets:
            if target not in rules:
                problems.append((rule.chapter, f"{rule.id} {rule.kind}: {target} does not exist"))
            elif rule.kind == "as" and rules[target].kind:
                problems.append((rule.chapter, f"{rule.id} as: {target} has no tests of its own"))
    for rule_id, tests_of_it in result.tests.items():
        if rule_id not in rules:
            match = re.match(r"C(\d+)", rule_id)
            text = f"{rule_id} of {_places(tests_of_it)} does not exist"
            problems.append((int(match[1]) if match else 0, text))
    return result


# ---- writing ----


def _tests(tests: list[Test]) -> str:
    by_file: dict[str, list[str]] = {}
    for test in tests:
        by_file.setdefault(test.path, []).append(test.name)
    return "<br>".join(
        f"{path}: " + ", ".join(f"`{name}`" for name in names) for path, names in by_file.items()
    )


def _decided_by(rule: Rule) -> str:
    if rule.is_deviation:
        return "a deviation of our own (" + rule.detail.partition(",")[2].strip() + ")"
    return ", ".join(rule.targets)


def _held_by(rule: Rule, fidelity: Fidelity) -> str:
    if rule.kind == "as":
        return "the tests of " + ", ".join(rule.targets)
    if rule.kind == "differs":
        return "differs from the vendor: " + _decided_by(rule)
    if rule.kind == "untested":
        return f"not tested: {rule.detail}"
    return _tests(fidelity.tests.get(rule.id, []))


def _summary(fidelity: Fidelity) -> Iterator[str]:
    yield "| chapter | rules | with tests | held by tests of other rules | not tested | differ |"
    yield "|---|---|---|---|---|---|"
    chapters = [section for section in fidelity.sections if "." not in section.number]
    for chapter in chapters:
        rules = [rule for rule in fidelity.rules.values() if rule.chapter == int(chapter.number)]
        counts = [
            sum(rule.kind == kind for rule in rules) for kind in ("", "as", "untested", "differs")
        ]
        link = f"[{chapter.number}. {chapter.title}](contract/{chapter.path.name})"
        yield f"| {link} | {len(rules)} | " + " | ".join(map(str, counts)) + " |"


def _differences(fidelity: Fidelity) -> Iterator[str]:
    """Yield the rows of chapter 10 that decide for something else than the vendor's behaviour."""
    yield "| | the vendor's interface | here |"
    yield "|---|---|---|"
    for section in fidelity.sections:
        if section.number != DECISIONS:
            continue
        for line in section.text.splitlines():
            cells = [cell.strip() for cell in TAG.sub("", line).strip().strip("|").split(" | ")]
            if len(cells) == 3 and cells[0].isdigit() and cells[2] != "Same":
                yield f"| decision {cells[0]} | {cells[1]} | {cells[2]} |"


def page(fidelity: Fidelity) -> str:
    """Write the page."""
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        f"<!-- Written by docs/fidelity.py. Do not edit: change the tags, the tests or "
        f"deviations.md, then run `{COMMAND}`. -->",
        "# How far this package does what the contract says",
        "",
        "Every rule of the [contract](contract/README.md) has an id that stands behind it in its",
        "text. This page says which tests hold it, which rules are not tested and why, and what is",
        "different on purpose.",
        "",
        *_summary(fidelity),
        "",
        "## Deliberately different from the vendor",
        "",
        "By chapter 10 of the contract; decisions for the vendor's own behaviour are left out.",
        "",
        *_differences(fidelity),
        "",
        "## Deviations of our own",
        "",
        DEVIATIONS.read_text(encoding="utf-8").partition("\n\n")[2].strip(),
        "",
        "## Not tested",
        "",
    ]
    reasons: dict[str, list[str]] = {}
    for rule in fidelity.rules.values():
        if rule.kind == "untested":
            reasons.setdefault(rule.detail, []).append(rule.id)
    lines += [f"- {reason}: {', '.join(ids)}" for reason, ids in sorted(reasons.items())]
    lines += ["", "## Rules that differ from the vendor", ""]
    lines += [
        f"- {rule.id}, by {_decided_by(rule)}"
        for rule in fidelity.rules.values()
        if rule.kind == "differs"
    ]
    lines += ["", "## Rules and their tests"]
    for section in fidelity.sections:
        if section.rules:
            lines += ["", f"### {section.number} {section.title}", ""]
            lines += ["| id | held by |", "|---|---|"]
            lines += [f"| {rule.id} | {_held_by(rule, fidelity)} |" for rule in section.rules]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page and print what does not fit, by chapter."""
    fidelity = read()
    PAGE.write_text(page(fidelity), encoding="utf-8")
    for chapter, text in sorted(fidelity.problems):
        print(f"chapter {chapter}: {text}" if chapter else text, file=sys.stderr)
    return 1 if fidelity.problems else 0


if __name__ == "__main__":
    sys.exit(main())
