# SPDX-License-Identifier: Apache-2.0
"""The command finds its subcommands and passes their exit status on."""

from __future__ import annotations

import argparse
import types

import pytest

from llm_datadist import __main__ as command
from llm_datadist._version import __version__


@pytest.fixture
def sample(mocker):
    """Make one subcommand, ``sample``, the only one there is."""
    module = types.ModuleType("llm_datadist._cli.sample")
    module.__doc__ = "Does a sample.\n\nIn more words."
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
    assert "In more words." in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["sample", "--colour"]])
def test_wrong_arguments_end_with_status_2(sample, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert "usage: llm-datadist" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit):
        command.main(["--version"])
    assert capsys.readouterr().out == f"llm-datadist-cffi {__version__}\n"
