"""What a process and those below it take: memory that they share counts once, pages of files not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.worker.process_memory import tree_bytes

MIB = 2**20
SHARED_MIB, OWN_MIB = 96, 32
# What an interpreter takes for itself, twice, and then some.
SLACK_MIB = 48

TOUCH = "import mmap, sys; held = mmap.mmap({fd}, {mib} << 20{access}); sum(held[::4096]); "
PARENT = (
    "import subprocess; own = b'x' * ({own} << 20); below = subprocess.Popen([sys.executable, '-S', '-c', {code!r}], "
)
WAITS = "print('touched', flush=True); sys.stdin.read()"

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@contextmanager
def two_on_one_memory(fd: int, access: str = "") -> Iterator[int]:
    """A process with another one below it, both of which have touched all of what `fd` refers to."""
    touch = TOUCH.format(fd=fd, mib=SHARED_MIB, access=access)
    below = PARENT.format(own=OWN_MIB, code=touch + WAITS) + f"pass_fds=[{fd}], stdout=subprocess.PIPE); "
    code = touch + below + "below.stdout.readline(); " + WAITS
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"touched\n"
        yield process.pid


def test_memory_that_two_processes_share_counts_once() -> None:
    fd = os.memfd_create("shared")
    os.truncate(fd, SHARED_MIB * MIB)
    with two_on_one_memory(fd) as pid:
        taken_mib = tree_bytes(pid) / MIB
    os.close(fd)
    assert SHARED_MIB + OWN_MIB <= taken_mib <= SHARED_MIB + OWN_MIB + SLACK_MIB


def test_pages_of_a_mapped_file_count_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x" * (SHARED_MIB * MIB))
    with path.open("rb") as file, two_on_one_memory(file.fileno(), ", access=mmap.ACCESS_READ") as pid:
        taken_mib = tree_bytes(pid) / MIB
    assert OWN_MIB <= taken_mib <= OWN_MIB + SLACK_MIB


def test_a_process_that_is_gone_takes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    assert tree_bytes(process.pid) == 0
