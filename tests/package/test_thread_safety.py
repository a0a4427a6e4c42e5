# SPDX-License-Identifier: Apache-2.0
"""What base/mutex.h and base/io_thread.h promise is held by the compiler and at run time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from llm_datadist._native import building, compiler
from tests.support import thread_safety

ROOT = Path(__file__).resolve().parents[2]

GUARDED = """
#include "base/io_thread.h"

namespace lldd {

class Counter {
public:
    explicit Counter(EventLoop *loop) : loop_(loop) {}
    int Read() {
        %s
        return count_;
    }
    int ReadOnLoop() {
        %s
        return on_loop_;
    }
    int ReadBoth() {
        %s
        return ReadLocked();
    }

private:
    int ReadLocked() LLDD_REQUIRES(mutex_) { return count_; }

    EventLoop *const loop_;
    Mutex mutex_;
    int count_ LLDD_GUARDED_BY(mutex_) = 0;
    int on_loop_ LLDD_GUARDED_BY(*loop_) = 0;
};

int Use(Counter *counter) { return counter->Read() + counter->ReadOnLoop() + counter->ReadBoth(); }

}  // namespace lldd
"""
LOCK = "const MutexLock lock(mutex_);"
ON_LOOP = "LLDD_ON_IO_THREAD(*loop_);"

THREADS = """
#include <cstdio>
#include <cstdlib>

#include "base/io_thread.h"

int main(int, char **argv) {
    const auto loop = lldd::EventLoop::Acquire();
    switch (std::atoi(argv[1])) {
        case 0: LLDD_ON_IO_THREAD(*loop); break;
        case 1: loop->RunAndWait([&] { LLDD_OFF_IO_THREAD(*loop); }); break;
        case 2: loop->RunAndWait([&] { LLDD_ON_IO_THREAD(*loop); }); break;
        case 3: LLDD_OFF_IO_THREAD(*loop); break;
    }
    std::puts("went on");
}
"""


def judged_by_clang(folder: Path, *bodies: str) -> str:
    """Return what clang says to the class with these first statements; "" if it passes."""
    clang = thread_safety.find_clang()
    if clang is None:
        pytest.skip("needs clang++, whose analysis of locks this is")
    source = folder / "counter.cc"
    source.write_text(GUARDED % bodies)
    return thread_safety.check(clang, [source]).get(source, "")


def test_what_holds_its_lock_passes(tmp_path: Path) -> None:
    assert judged_by_clang(tmp_path, LOCK, ON_LOOP, LOCK) == ""


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        (("", ON_LOOP, LOCK), "reading variable 'count_' requires holding mutex 'mutex_'"),
        ((LOCK, "", LOCK), "reading variable 'on_loop_' requires holding"),
        ((LOCK, ON_LOOP, ""), "calling function 'ReadLocked' requires holding mutex 'mutex_'"),
    ],
    ids=["member", "I/O thread", "function"],
)
def test_what_does_not_hold_its_lock_fails(
    tmp_path: Path, bodies: tuple[str, str, str], said: str
) -> None:
    text = judged_by_clang(tmp_path, *bodies)
    assert said in text
    assert text.count("error:") == 1


def test_a_debug_build_ends_a_process_that_is_on_the_wrong_thread(tmp_path: Path) -> None:
    environment = os.environ | {"LD_PRELOAD": ""}
    command = [*compiler.find_compiler(), "-std=c++17", "-O0", "-pthread"]
    command += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]

    def build(*arguments: str) -> None:
        subprocess.run([*command, *arguments], env=environment, cwd=tmp_path, check=True)

    (tmp_path / "threads.cc").write_text(THREADS)
    parts = ("event_loop", "fork", "io_thread", "log", "status", "thread")
    build("-c", *(str(ROOT / "csrc" / "base" / f"{part}.cc") for part in parts))
    outcomes = {}
    for name, flags in (("release", []), ("debug", ["-DLLDD_CHECK_THREADS"])):
        build(*flags, "threads.cc", *(f"{part}.o" for part in parts), "-o", name)
        outcomes[name] = [
            subprocess.run([f"./{name}", case], cwd=tmp_path, capture_output=True, text=True)
            for case in "0123"
        ]
    assert [done.stdout for done in outcomes["release"]] == ["went on\n"] * 4
    assert [done.returncode for done in outcomes["debug"]] == [-6, -6, 0, 0]
    on, off = (done.stderr for done in outcomes["debug"][:2])
    assert "threads.cc:10: this must run on the I/O thread" in on
    assert "threads.cc:11: this must not run on the I/O thread" in off


def test_the_builds_for_the_sanitizers_have_the_assertions() -> None:
    flags = building.compile_flags(building.MOCK, ROOT, ROOT, ["thread"])
    assert "-DLLDD_CHECK_THREADS" in flags
    assert "-DLLDD_CHECK_THREADS" not in building.compile_flags(building.MOCK, ROOT, ROOT)
