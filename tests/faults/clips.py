"""A folder in; tiny videos, each with bytes of its own so that no job profits from another's features, out."""

from __future__ import annotations

import itertools
import secrets
import struct
from pathlib import Path

from tests.service.pipeline.video_samples import Sample, steady, write

_FRAMES = 24
_TOKEN_BYTES = 16


class Clips:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._body = write(folder / "pattern.mp4", Sample(steady(_FRAMES))).read_bytes()
        self._numbers = itertools.count()

    def fresh(self, kind: str = "plain") -> Path:
        """A new clip; `kind` begins its name, by which a faulty worker knows what to do to it."""
        path = self._folder / f"{kind}-{next(self._numbers)}.mp4"
        path.write_bytes(self._body + _free_box(secrets.token_bytes(_TOKEN_BYTES)))
        return path


def _free_box(data: bytes) -> bytes:
    """What readers of MP4 pass over."""
    return struct.pack(">I4s", 8 + len(data), b"free") + data
