# SPDX-License-Identifier: Apache-2.0
"""Where the package writes to a disk (builds, drawings, what goes to stdout), and none is left."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist._cli import bench
from llm_datadist._native import building
from llm_datadist._native.compiler import BuildError, Compiler
from llm_datadist._tools.files import write_whole
from llm_datadist.testing import Geometry, Peer, check, moved
from tests.support.tiny_disk import TinyDisk, tiny_disk

PAGE = 4096
TARGET = building.Target("sample", (".",))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TinyDisk]:
    with tiny_disk(tmp_path / "disk", 64 * PAGE) as disk:
        yield disk


def test_a_build_says_so_and_leaves_nothing_that_a_later_one_takes(
    needs_compiler, disk: TinyDisk, tmp_path: Path, monkeypatch
) -> None:
    for name in ("CXX", "CXXFLAGS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tree = tmp_path / "tree"
    (tree / "csrc").mkdir(parents=True)
    (tree / "csrc" / "exports.map").write_text("{ global: lldd_*; local: *; };\n")
    # 256 KiB of object file, which do not fit.
    (tree / "one.cc").write_text(
        'extern "C" __attribute__((visibility("default"))) int lldd_one();\n'
        "static volatile char room[1 << 18] = {1};\nint lldd_one() { return room[0]; }\n"
    )
    build_dir = disk.folder / "objects"
    library = disk.folder / "lib.so"

    def build() -> None:
        build_dir.mkdir(exist_ok=True)
        flags = building.compile_flags(TARGET, tree, build_dir, ())
        compiler = Compiler(tree, build_dir, flags)
        compiler.link(
            compiler.compile_all(TARGET.sources(tree), jobs=1),
            library,
            building.link_flags(TARGET, tree, ()),
            TARGET.libraries,
            [tree / building.VERSION_SCRIPT],
        )

    with pytest.raises(BuildError, match=os.strerror(errno.ENOSPC)):
        build()
    # Enough for the object, not for the library.
    disk.resize(100 * PAGE)
    with pytest.raises(BuildError, match=f"{os.strerror(errno.ENOSPC)}|No space|cannot|signal"):
        build()
    assert not library.exists()
    disk.fill()
    with pytest.raises((BuildError, OSError)):
        build()
    assert not library.exists()
    (disk.folder / "filling").unlink()
    disk.resize(4096 * PAGE)
    build()
    assert ctypes.CDLL(str(library)).lldd_one() == 1


def test_engines_go_on_whose_log_cannot_be_written() -> None:
    """stdout is what a client's start script made it: a file on that disk."""
    with open("/dev/full", "w") as full:
        # Peers write their stdout to stderr of this process.
        saved = os.dup(2)
        os.dup2(full.fileno(), 2)
        try:
            environment = {"ASCEND_GLOBAL_LOG_LEVEL": "0"}
            owner, puller = Peer.start(environment), Peer.start(environment)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    try:
        geometry = Geometry()
        owner.init(1, listen="127.0.0.1:0")
        puller.init(2)
        source = owner.register("kv", geometry, 1, 0)
        target = puller.register("kv", geometry, 2)
        assert puller.link(owner) == LLMStatusCode.LLM_SUCCESS
        puller.pull("kv", BlocksCacheKey(1, 0), [3], [5])
        check(target, moved(target.filled(), source.filled(), [3], [5]))
        # A refusal is logged as an error.
        failure = puller.start_call("pull", "kv", BlocksCacheKey(1, 9), [3], [5]).exception()
        assert "LLM_KV_CACHE_NOT_EXIST" in str(failure)
        puller.finalize()
        owner.finalize()
    finally:
        # Python itself says 120 at the end of a process whose stdout cannot be flushed.
        owner.kill()
        puller.kill()


def test_the_figures_of_a_bench_are_there_when_they_cannot_be_drawn(mocker, capsys) -> None:
    from llm_datadist._bench import course, output

    mocker.patch.object(bench, "_refuse_what_cannot_be_drawn")
    mocker.patch.object(course, "run", return_value=mocker.Mock(results=["one"]))
    mocker.patch.object(output, "for_people", return_value="the figures")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "curves.png")
    # The module needs matplotlib.
    plot = mocker.Mock(draw=mocker.Mock(side_effect=full))
    mocker.patch.dict(sys.modules, {"llm_datadist._bench.plot": plot})
    mocker.patch("llm_datadist._bench.plot", plot, create=True)
    arguments = mocker.Mock(
        plot="curves.png", sweep=["size"], path=["tcp"], only=None, json=False, tiny=True, rounds=1
    )
    with pytest.raises(OSError, match="No space left"):
        bench.run(arguments)
    assert capsys.readouterr().out == "the figures\n"


def test_a_drawing_that_does_not_fit_leaves_no_file(disk: TinyDisk) -> None:
    disk.fill()
    file = disk.folder / "curves.png"
    with pytest.raises(OSError, match="No space left"):
        write_whole(str(file), bytes(10 * PAGE))
    assert [each.name for each in disk.folder.iterdir()] == ["filling"]
    disk.resize(128 * PAGE)
    content = np.arange(10 * PAGE, dtype=np.uint8).tobytes()
    write_whole(str(file), content)
    assert file.read_bytes() == content
