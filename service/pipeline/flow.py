"""Frames in, optical flow between neighbours out: displacements in pixels, one field per frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import VideoTooSmall

Algorithm = Literal["dis_ultrafast", "dis_fast", "dis_medium"]
Displacements = NDArray[np.float32]

BYTE_STEPS = 255
SMALLEST_SIDE_PX = 16  # below this DIS has no image pyramid left and raises


@dataclass(frozen=True)
class FlowRule:
    """`clip_px` bounds a displacement; `quantised` rounds it to the 256 levels that a flow image stores."""

    algorithm: Algorithm
    clip_px: float | None = None
    quantised: bool = False


class FlowStation:
    """Flow of a video that arrives in batches: field i leads from frame i to i + 1, the last one is zero."""

    def __init__(self, rule: FlowRule) -> None:
        self._rule = rule
        self._engine = _engine(rule.algorithm)
        self._previous: NDArray[np.uint8] | None = None

    def push(self, frames: NDArray[np.uint8]) -> Displacements:
        """Frames (N, H, W, 3) in; the fields (M, H, W, 2) that they complete out."""
        fields = []
        for frame in frames:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            if self._previous is not None:
                fields.append(self._between(self._previous, grey))
            self._previous = np.asarray(grey, np.uint8)
        return np.stack(fields) if fields else np.empty((0, *frames.shape[1:3], 2), np.float32)

    def finish(self) -> Displacements:
        """The field of the last frame, which stands still."""
        if self._previous is None:
            return np.empty((0, 0, 0, 2), np.float32)
        return bound(np.zeros((1, *self._previous.shape, 2), np.float32), self._rule)

    def _between(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Displacements:
        if min(first.shape) < SMALLEST_SIDE_PX:
            height, width = first.shape
            raise VideoTooSmall(f"flow of {width}x{height} px frames: each side needs at least {SMALLEST_SIDE_PX} px")
        flow = np.asarray(self._engine.calc(first, second, None), np.float32)
        return bound(flow, self._rule)


def bound(flow: Displacements, rule: FlowRule) -> Displacements:
    """What a stored flow image would give back: clipped and, if asked, rounded to its byte levels."""
    if rule.clip_px is None:
        return flow
    clipped = np.clip(flow, -rule.clip_px, rule.clip_px)
    if not rule.quantised:
        return clipped
    range_px = 2 * rule.clip_px
    stored = np.round(BYTE_STEPS * (clipped.astype(np.float64) + rule.clip_px) / range_px)
    return (stored / BYTE_STEPS * range_px - rule.clip_px).astype(np.float32)


def _engine(algorithm: Algorithm) -> Any:
    preset = {
        "dis_ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
        "dis_fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
        "dis_medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    }[algorithm]
    return cv2.DISOpticalFlow.create(preset)
