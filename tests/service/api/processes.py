"""A folder and settings in; `tal serve` and `tal worker` as real processes, ended with the block, out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
START_S = 60.0


class Processes:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        ours = {f"TAL_{name.upper()}": str(value) for name, value in {"home": folder / "home", **settings}.items()}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TAL_")}
        self._environment = {**inherited, **ours, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        self.running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from service.cli import main; main()", *arguments]
        with self._log(len(self.running)).open("wb") as log:
            started = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.running.append(started)
        return started

    def serve(self, *arguments: str) -> str:
        """Its URL, once it listens."""
        number = len(self.running)
        process = self.start("serve", "--port", "0", *arguments)

        def url() -> str | None:
            assert process.poll() is None, self.log(number)
            found = re.search(r"listening on (http://\S+)", self.log(number))
            return found and found[1]

        return eventually(url)

    def log(self, number: int) -> str:
        return self._log(number).read_text()

    def _log(self, number: int) -> Path:
        return self.folder / f"process{number}.log"


def eventually(condition: Callable[[], T | None], timeout_s: float = START_S) -> T:
    ends_at_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < ends_at_s, f"not within {timeout_s:g} s"
        time.sleep(0.02)
    return found
