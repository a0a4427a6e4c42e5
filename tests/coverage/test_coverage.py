# SPDX-License-Identifier: Apache-2.0
"""The report of coverage, on small inputs."""

from __future__ import annotations

import json

from tests.coverage import report

PYTHON = {
    "files": {
        "llm_datadist/keys.py": {
            "summary": {"num_statements": 4, "num_branches": 2, "covered_branches": 1},
            "missing_lines": [7, 8, 11],
        }
    }
}


def line(number: int, count: int, *branches: int, **more: bool) -> dict[str, object]:
    taken = [{"count": each} for each in branches]
    return {"line_number": number, "count": count, "branches": taken, **more}


# A template is there once for each of its instances.
CPP = {
    "files": [
        {
            "file": "csrc/engine/wire.cc",
            "lines": [
                line(1, 1, 3, 0),
                line(2, 0),
                line(2, 5),
                line(3, 0, **{"gcovr/excluded": True}),
            ],
        }
    ]
}


def files() -> list[report.File]:
    return [*report.of_python(json.dumps(PYTHON)), *report.of_cpp(json.dumps(CPP))]


def test_figures_are_by_part() -> None:
    assert report.figures(files()) == {
        "wire": {"lines": 100.0, "branches": 50.0},
        "python": {"lines": 25.0, "branches": 50.0},
    }


def test_what_fell_and_what_has_no_reason_is_told() -> None:
    noted = {"wire": {"lines": 100.0, "branches": 50.4}, "python": {"lines": 26.0}}
    assert report.problems(files(), noted, {"gone.py": "why"}) == [
        "python: 25.0 % of the lines, figures.json has 26.0 %",
        "llm_datadist/keys.py: 25.0 % of the lines, and no reason",
        "gone.py of reasons.json is no source",
    ]
    assert report.problems(files(), {}, {"llm_datadist/keys.py": "why"}) == []


def test_the_report_names_lines_and_reasons() -> None:
    text = report.page(files(), {"llm_datadist/keys.py": "why"})
    assert "| llm_datadist/keys.py | 25.0 % | 7-8, 11 | why |" in text
    assert "wire.cc" not in text.partition("## What is not covered")[2]


def test_each_reason_is_of_a_source() -> None:
    reasons = json.loads(report.REASONS.read_text())
    root = report.HERE.parents[1]
    assert [name for name in reasons if not (root / name).is_file()] == []
    assert set(json.loads(report.FIGURES.read_text())) <= set(report.PARTS)
