"""A process id in, the memory that it and everything below it take for themselves out; 0 where /proc is missing.

Pages of mapped files, as of libraries, count nothing: the system takes them back where it needs them.
"""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def tree_bytes(pid: int) -> int:
    """Shared memory counts once: a decoder hands its frames over in pages that both processes hold."""
    taken = [_own_and_shared_bytes(member) for member in _tree(pid)]
    return sum(own for own, _ in taken) + max(shared for _, shared in taken)


def _tree(pid: int) -> list[int]:
    """Processes come and go while this looks: those that are gone count nothing."""
    members = [pid]
    for member in members:
        for listed in _PROC.glob(f"{member}/task/*/children"):
            members += map(int, _read(listed).split())
    return members


def _own_and_shared_bytes(pid: int) -> tuple[int, int]:
    """The exact share of each page (smaps_rollup) would cost milliseconds per GiB, several times a second."""
    lines = _read(_PROC / str(pid) / "status").splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    own, shared = (int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
    return own, shared


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
