# SPDX-License-Identifier: Apache-2.0
"""The command finds its subcommands and passes their exit status on."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
import types

import pytest

from llm_datadist import __main__ as command
from llm_datadist._tools.table import lay_out
from llm_datadist._version import __version__


@pytest.fixture
def sample(mocker):
    """Make one subcommand, ``sample``, the only one there is."""
    module = types.ModuleType("llm_datadist._cli.sample")
    module.__doc__ = "Does a sample.\n\nIn more words, " + "which are many, " * 9 + "\n\n  a  table"
    module.add_arguments = lambda parser: parser.add_argument("--status", type=int, default=0)
    module.run = mocker.Mock(side_effect=lambda args: args.status)
    found = [types.SimpleNamespace(name="sample"), types.SimpleNamespace(name="_shared")]
    mocker.patch.object(command.pkgutil, "iter_modules", return_value=found)
    mocker.patch.object(command.importlib, "import_module", return_value=module)
    return module


def test_the_exit_status_is_that_of_the_subcommand(sample):
    assert command.main(["sample"]) == 0
    assert command.main(["sample", "--status", "3"]) == 3
    assert isinstance(sample.run.call_args.args[0], argparse.Namespace)


def test_help_shows_the_docstrings(sample, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Does a sample." in shown
    assert "_shared" not in shown
    with pytest.raises(SystemExit):
        command.main(["sample", "--help"])
    assert "In more words, which" in capsys.readouterr().out


def test_help_is_as_wide_as_the_terminal(sample, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "44")
    with pytest.raises(SystemExit):
        command.main(["sample", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert "  a  table" in lines
    assert max(map(len, lines)) <= 44


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [([], "[-h]"), (["nothing"], "[-h]"), (["sample", "--colour"], "sample [-h] [--status")],
)
def test_wrong_arguments_end_with_status_2_and_the_usage_of_the_command(
    sample, capsys, arguments, usage
):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert f"usage: llm-datadist {usage}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "status", "text"),
    [("full", 1, f"llm-datadist: {os.strerror(errno.ENOSPC)}\n"), ("gone", 141, "")],
)
def test_an_output_that_cannot_be_written(sample, capsys, monkeypatch, place, status, text):
    sample.run.side_effect = lambda args: print("a result") or 0
    if place == "full":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert command.main(["sample"]) == status
    assert capsys.readouterr().err == text


def test_an_interrupt_ends_with_status_130(sample, capsys):
    sample.run.side_effect = KeyboardInterrupt
    assert command.main(["sample"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "llm-datadist: interrupted\n"


def test_an_interrupted_selftest_ends_as_pytest_does():
    suite = subprocess.Popen(
        [sys.executable, "-m", "llm_datadist", "selftest", "--", "-k", "test_pull_blocks"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with suite:
        for line in suite.stdout:
            if "test session starts" in line:
                break
        os.killpg(suite.pid, signal.SIGINT)
        output, errors = suite.communicate(timeout=60)
    assert suite.returncode == 2, output + errors
    assert "KeyboardInterrupt" in output
    assert "Traceback" not in errors


HEADINGS = ("Name", "Meaning", "Size")
ROW = ("a_name_of_many_letters", "what it means in several words", "12")


def test_a_table_without_a_terminal_has_one_line_a_row():
    assert lay_out([HEADINGS, ROW], right=[2]) == [
        "Name                    Meaning                         Size",
        "a_name_of_many_letters  what it means in several words    12",
    ]


def test_a_table_fits_its_terminal_without_cutting_words():
    assert lay_out([HEADINGS, ROW], [2], width=46) == [
        "Name                    Meaning           Size",
        "a_name_of_many_letters  what it means in    12",
        "                        several words",
    ]


def test_a_table_that_cannot_fit_is_a_list():
    assert lay_out([HEADINGS, ROW], [2], width=30) == [
        "a_name_of_many_letters",
        "  Meaning: what it means in",
        "    several words",
        "  Size: 12",
    ]


def test_version(capsys):
    with pytest.raises(SystemExit):
        command.main(["--version"])
    assert capsys.readouterr().out == f"llm-datadist-cffi {__version__}\n"
