"""A deployment's mark and folders in; what its dead processes left behind out: processes, files, shared memory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MARK = "TAL_FAULTS_MARK"
SHARED_MEMORY = Path("/dev/shm")
PATIENCE_S = 10.0
# The semaphores of multiprocessing's pools, which other programs of this machine make and the service does not.
FOREIGN = "sem.mp-"
# One file of a fixed name, which ONNX Runtime writes when it is imported.
RUNTIME_SESSION = ".ses"


class Leftovers:
    def __init__(self, mark: str, temporary: Path, store_folder: Path) -> None:
        self._mark, self._temporary, self._incoming = mark, temporary, store_folder / "incoming"
        self._shared_before = _shared_memory()

    def processes(self, name: str = "") -> list[int]:
        """Those that carry the mark, or that of one member: its children inherited it."""
        wanted = f"{MARK}={self._mark}:{name}{':' if name else ''}".encode()
        found = [path for path in Path("/proc").glob("[0-9]*") if wanted in _environment(path)]
        return [int(path.name) for path in found]

    def orphans_of(self, name: str) -> list[str]:
        """After a kill of that member: what outlives it for long."""
        left = _settled(lambda: [str(pid) for pid in self.processes(name)])
        return [f"process {pid} outlived {name}" for pid in left]

    def at_end(self) -> list[str]:
        """Once no job runs and no member lives. Uploads that broke off are aged, as the janitor waits a minute."""
        found = [f"process {pid} is left" for pid in _settled(lambda: list(map(str, self.processes())))]
        found += [f"{path} is left in shared memory" for path in _settled(self._new_shared)]
        names = {path.name for path in self._temporary.iterdir()} - {RUNTIME_SESSION}
        return found + [f"temporary file {name} is left" for name in sorted(names)]

    def incoming(self) -> list[str]:
        return sorted(path.name for path in self._incoming.glob("*"))

    def age_incoming(self, seconds: float = 120.0) -> None:
        for path in self._incoming.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (time.time() - seconds,) * 2)

    def _new_shared(self) -> list[str]:
        return sorted(_shared_memory() - self._shared_before)


def _settled(look) -> list[str]:
    """What is found until nothing is, or patience ends."""
    give_up_s = time.monotonic() + PATIENCE_S
    while (found := look()) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    return found


def _shared_memory() -> set[str]:
    if not SHARED_MEMORY.is_dir():
        return set()
    return {path.name for path in SHARED_MEMORY.iterdir() if not path.name.startswith(FOREIGN)}


def _environment(process: Path) -> bytes:
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return b"" if state == "Z" else (process / "environ").read_bytes()
    except OSError:
        return b""
