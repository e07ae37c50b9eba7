"""A process id in, the resident memory of that process and everything below it out; 0 where /proc is missing."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree_bytes(pid: int) -> int:
    return sum(_resident_bytes(member) for member in _tree(pid))


def _tree(pid: int) -> list[int]:
    """Processes come and go while this looks: those that are gone count nothing."""
    members = [pid]
    for member in members:
        for listed in _PROC.glob(f"{member}/task/*/children"):
            members += map(int, _read(listed).split())
    return members


def _resident_bytes(pid: int) -> int:
    fields = _read(_PROC / str(pid) / "statm").split()
    return int(fields[1]) * _PAGE_BYTES if fields else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
