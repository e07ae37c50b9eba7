"""The cache of files from far away: fetched once, kept while they are used, gone when there is no room."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from service.errors import ArtifactNotFound, StorageFull
from service.jobs.file_cache import HELD, RECENT_S, FileCache

ROOT = Path(__file__).resolve().parents[3]
OTHER_PROCESS = """
import sys
from pathlib import Path
from service.jobs.file_cache import FileCache

def fetch(file):
    print("fetching", flush=True)
    sys.stdin.readline()
    file.write(b"theirs")

cache = FileCache(Path(sys.argv[1]), 100)
print(cache.get("clip", 6, fetch).read_bytes().decode(), flush=True)
sys.stdin.readline()
"""
MANY_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from service.jobs.file_cache import FileCache

folder, log = map(Path, sys.argv[1:])
cache = FileCache(folder, 10**6)
with ThreadPoolExecutor(8) as pool:
    for clip in map(str, range(100)):
        def fetch(file):
            with log.open("a") as fetches:
                fetches.write(clip + "\\n")
            file.write(clip.encode())

        for file in pool.map(lambda _: cache.get(clip, len(clip), fetch), range(16)):
            assert file.read_bytes() == clip.encode()
"""


@pytest.fixture
def cache(tmp_path):
    return FileCache(tmp_path, 100)


def never(file):
    raise AssertionError("fetched again")


def fetched(cache, name, size=40):
    return cache.get(name, size, lambda file: file.write(b"x" * size))


def make_old(*files):
    for file in files:
        at_s = time.time() - RECENT_S - 10
        with contextlib.suppress(FileNotFoundError):
            os.utime(file, (at_s, at_s))


@pytest.fixture
def another(tmp_path):
    """A process that gets the same file, and holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_what_is_there_is_not_fetched_again(cache):
    file = fetched(cache, "clip")
    assert cache.get("clip", 40, never) == file
    assert file.read_bytes() == b"x" * 40
    assert file.stat().st_mode & 0o777 == 0o600


def test_many_who_ask_at_once_fetch_once(cache, tmp_path):
    """Threads of two processes, a hundred times: what goes wrong here does so between two system calls."""
    log = tmp_path / "fetches"
    program = [sys.executable, "-c", MANY_THREADS, str(cache.folder), str(log)]
    with contextlib.ExitStack() as ended:
        processes = []
        for _ in range(2):
            processes.append(ended.enter_context(subprocess.Popen(program, cwd=ROOT)))
            ended.callback(processes[-1].kill)
        assert [process.wait(60) for process in processes] == [0, 0]
    assert log.read_text().split() == [str(clip) for clip in range(100)]
    assert list(cache.incoming.iterdir()) == []


def test_processes_wait_for_one_another(cache, another):
    assert another.stdout.readline() == "fetching\n"
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(cache.get, "clip", 6, never)
        another.stdin.write("\n")
        another.stdin.flush()
        assert mine.result(10).read_bytes() == b"theirs"


def test_a_process_that_dies_while_it_fetches_leaves_the_fetch_to_the_next(cache, another):
    assert another.stdout.readline() == "fetching\n"
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(cache.get, "clip", 3, lambda file: file.write(b"own"))
        another.kill()
        assert mine.result(10).read_bytes() == b"own"
    assert list(cache.incoming.iterdir()) == []


def test_a_fetch_that_fails_leaves_nothing(cache):
    def fail(file):
        file.write(b"half")
        raise ArtifactNotFound("gone")

    with pytest.raises(ArtifactNotFound):
        cache.get("clip", 10, fail)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_those_used_least_recently_make_room(cache, tmp_path):
    old, older, recent = (fetched(FileCache(tmp_path, 1000), name) for name in ("old", "older", "recent"))
    make_old(old, older)
    os.utime(older, (0, 0))
    fetched(cache, "new", 20)
    assert (old.exists(), older.exists(), recent.exists()) == (True, False, True)
    fetched(cache, "newer", 20)
    assert (old.exists(), recent.exists()) == (False, True)


def test_what_a_living_process_was_given_last_stays(cache, another):
    another.stdin.write("\n")
    another.stdin.flush()
    assert another.stdout.readline() == "fetching\n"
    assert another.stdout.readline() == "theirs\n"
    (theirs,) = (path for path in (cache.folder / "files").rglob("*") if path.is_file())
    make_old(theirs)
    fetched(cache, "large", 100)
    assert theirs.exists()
    another.kill()
    another.wait()
    fetched(cache, "another", 40)
    assert not theirs.exists()


def test_only_the_last_few_are_held(cache):
    files = [fetched(cache, f"clip{number}", 10) for number in range(HELD + 2)]
    make_old(*files)
    cache.make_room(100)
    assert [file.exists() for file in files] == [False, False] + [True] * HELD


def test_more_than_the_disk_has_room_for_is_refused(cache):
    with pytest.raises(StorageFull, match="needed"):
        cache.get("clip", 2**62, never)


def test_no_file_is_removed_between_its_finding_and_its_use(cache):
    """Getters and removers at once: whoever is given a file can open it."""
    done = threading.Event()

    def remove():
        while not done.is_set():
            make_old(*(cache.folder / "files").glob("*/*"))
            cache.make_room(1000)

    def use(number):
        for _ in range(50):
            mine = FileCache(cache.folder, 100)
            fetched(mine, f"clip{number}", 10).read_bytes()
            del mine  # which lets go of its files

    with ThreadPoolExecutor(3) as pool:
        remover = pool.submit(remove)
        users = [pool.submit(use, number) for number in range(2)]
        wait(users)
        done.set()
        for ended in (*users, remover):
            ended.result()
