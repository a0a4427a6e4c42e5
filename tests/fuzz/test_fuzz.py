# SPDX-License-Identifier: Apache-2.0
"""Every input of the corpus is read without a finding: the seeds, and what once was a finding."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import build, options, plants

CORPUS = command.CORPUS
# What a repository should hold of binary files.
MOST_CORPUS_BYTES = 200_000
REPLAY_SECONDS = 60


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build all targets as one program, with the objects of the library that is tested."""
    sanitized = "-fsanitize=address" in os.environ.get("LLDD_TEST_CXXFLAGS", "")
    with pytest.MonkeyPatch.context() as patch:
        # A sanitizer that watches Python (tests/sanitizers) shall not watch the compiler.
        patch.delenv("LD_PRELOAD", raising=False)
        return build.build_to_replay(tmp_path_factory.mktemp("fuzz"), sanitized)


def _run(program: Path, *arguments: str | Path, stdin: bytes = b"") -> str:
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    done = subprocess.run(
        [program, *arguments],
        env=environment,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=REPLAY_SECONDS,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-4000:]
    return done.stdout.decode()


@pytest.mark.sanitize
@pytest.mark.parametrize("target", [each for each in command.names() if each != options.NAME])
def test_the_corpus_is_read(program: Path, target: str) -> None:
    inputs = len([*(CORPUS / target).iterdir()])
    assert inputs
    assert _run(program, target, CORPUS / target) == f"{target}: {inputs} inputs\n"


@pytest.mark.sanitize
def test_options_are_read() -> None:
    for path in sorted((CORPUS / options.NAME).iterdir()):
        options.run(path.read_bytes())


def test_a_target_reads_standard_input(program: Path) -> None:
    seed = (CORPUS / "rank_table" / "seed-0").read_bytes()
    assert _run(program, "rank_table", stdin=seed) == ""


def test_every_target_is_listed_and_has_a_planted_fault(program: Path) -> None:
    listed = _run(program, "list").split()
    assert sorted([*listed, options.NAME]) == command.names()
    assert {plant.target for plant in plants.PLANTS} == {*command.names()}


@pytest.mark.parametrize("plant", plants.PLANTS, ids=lambda plant: plant.target)
def test_a_fault_can_be_planted(plant: plants.Plant) -> None:
    assert (build.ROOT / plant.file).read_text().count(plant.sound) == 1


def test_the_seeds_are_those_of_the_encoders(program: Path, tmp_path: Path) -> None:
    _run(program, "seeds", tmp_path)
    for target in tmp_path.iterdir():
        kept = {path.name: path for path in (CORPUS / target.name).glob("seed-*")}
        made = {path.name: path for path in target.iterdir()}
        assert {*kept} == {*made}, target.name
        for name, path in made.items():
            assert path.read_bytes() == kept[name].read_bytes(), (
                f"{target.name}/{name} is of another protocol: python -m tests.fuzz --seeds"
            )


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) < MOST_CORPUS_BYTES
