"""Frames in one process; the same frames in another out, through a ring of slots in anonymous shared memory.

A slot holds one batch, view after view. The memory has no name, so nothing can be left behind by a killed process; the
side that decodes sizes it, and the side that reads seals it before trusting its size.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.pipeline.frame_views import Pixels, SizePx

_SLOTS = 3
_SLOT_BYTES = 32 * 1024 * 1024
_SLOT_FRAMES = 16


@dataclass(frozen=True)
class RingLayout:
    """One picture size per view; a slot is small enough for a shared cache, yet always holds one frame."""

    sizes_px: tuple[SizePx, ...]

    @property
    def num_slots(self) -> int:
        return _SLOTS

    @property
    def frame_bytes(self) -> int:
        return sum(3 * math.prod(size) for size in self.sizes_px)

    @property
    def slot_frames(self) -> int:
        return max(1, min(_SLOT_FRAMES, _SLOT_BYTES // self.frame_bytes))

    @property
    def slot_bytes(self) -> int:
        return self.slot_frames * self.frame_bytes

    @property
    def ring_bytes(self) -> int:
        return self.num_slots * self.slot_bytes


class FrameRing:
    """The mapped memory of one process."""

    def __init__(self, fd: int, layout: RingLayout) -> None:
        self.layout = layout
        self._memory = mmap.mmap(fd, layout.ring_bytes)
        self._slots = [self._arrays(slot) for slot in range(layout.num_slots)]

    def write(self, slot: int, position: int, shown: Sequence[Pixels]) -> None:
        for view, pixels in zip(self._slots[slot], shown, strict=True):
            view[position] = pixels

    def copy(self, slot: int, num_frames: int) -> tuple[Pixels, ...]:
        """Copied, since a consumer keeps frames for as long as it likes."""
        return tuple(view[:num_frames].copy() for view in self._slots[slot])

    def close(self) -> None:
        """Unmaps: whoever still reads from another thread must have been kept out."""
        self._slots = []
        self._memory.close()

    def _arrays(self, slot: int) -> list[Pixels]:
        offset = slot * self.layout.slot_bytes
        arrays = []
        for width, height in self.layout.sizes_px:
            shape = (self.layout.slot_frames, height, width, 3)
            arrays.append(np.ndarray(shape, dtype=np.uint8, buffer=self._memory, offset=offset))
            offset += math.prod(shape)
        return arrays


def create_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def size_memory(fd: int, layout: RingLayout) -> FrameRing:
    os.ftruncate(fd, layout.ring_bytes)
    return FrameRing(fd, layout)


def trust_memory(fd: int, layout: RingLayout) -> FrameRing:
    """Sealed first: a decoder that a hostile file took over could else shrink the memory under this process."""
    if hasattr(fcntl, "F_ADD_SEALS"):
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    if os.fstat(fd).st_size < layout.ring_bytes:
        raise ValueError("the shared memory is smaller than announced")
    return FrameRing(fd, layout)
