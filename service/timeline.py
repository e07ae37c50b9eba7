"""Named rows of segments in, a picture of the timeline out: one bar per segment, one row per label and source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from service.errors import InvalidOptions
from service.localization import Segment

WIDTH_PX, ROW_PX, LEFT_PX, EDGE_PX = 1100, 22, 150, 14
TITLE_PX, AXIS_PX = 34, 34
INK, GRID, PAPER = (60, 55, 50), (225, 222, 218), (255, 255, 255)
BLUE_GREEN_RED = tuple[int, int, int]


@dataclass(frozen=True)
class Track:
    """One source of segments, such as the truth; bars are as opaque as their scores."""

    name: str
    colour: BLUE_GREEN_RED
    segments: tuple[Segment, ...]


def draw(path: Path, title: str, duration_s: float, tracks: Sequence[Track]) -> None:
    """Writes a PNG (or whatever the name ends in)."""
    labels = sorted({segment.label for track in tracks for segment in track.segments})
    height_px = TITLE_PX + len(labels) * (len(tracks) * ROW_PX + 8) + AXIS_PX
    canvas = np.full((height_px, WIDTH_PX, 3), PAPER, np.uint8)
    scale_px = (WIDTH_PX - LEFT_PX - EDGE_PX) / max(duration_s, 1e-3)
    _text(canvas, title, (EDGE_PX, 22), 0.5)
    _legend(canvas, tracks)
    _axis(canvas, duration_s, scale_px)
    for number, label in enumerate(labels):
        top_px = TITLE_PX + number * (len(tracks) * ROW_PX + 8)
        _text(canvas, label, (EDGE_PX, top_px + len(tracks) * ROW_PX // 2 + 5), 0.45)
        for row, track in enumerate(tracks):
            # The surest last, so that no weaker answer covers it.
            for segment in sorted(track.segments, key=lambda one: one.score):
                if segment.label == label:
                    _bar(canvas, segment, track.colour, top_px + row * ROW_PX, scale_px)
    if not cv2.imwrite(str(path), canvas):
        raise InvalidOptions(f"{path}: this picture could not be written; .png and .jpg are accepted")


def _bar(canvas: np.ndarray, segment: Segment, colour: BLUE_GREEN_RED, top_px: int, scale_px: float) -> None:
    left, right = (round(LEFT_PX + moment_s * scale_px) for moment_s in (segment.start_s, segment.end_s))
    strength = 0.25 + 0.75 * min(1.0, max(0.0, segment.score))
    shade = tuple(round(255 - strength * (255 - value)) for value in colour)
    cv2.rectangle(canvas, (left, top_px + 2), (max(right, left + 1), top_px + ROW_PX - 3), shade, -1)
    if right - left > 34 and segment.score < 1:
        _text(canvas, f"{segment.score:.2f}", (left + 3, top_px + ROW_PX - 7), 0.36)


def _axis(canvas: np.ndarray, duration_s: float, scale_px: float) -> None:
    bottom_px = canvas.shape[0] - AXIS_PX
    step_s = next((step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if duration_s / step <= 14), 1800)
    for moment_s in range(0, int(duration_s) + 1, step_s):
        x = round(LEFT_PX + moment_s * scale_px)
        cv2.line(canvas, (x, TITLE_PX), (x, bottom_px + 4), GRID, 1)
        _text(canvas, f"{moment_s} s", (x - 10, bottom_px + 18), 0.4)


def _legend(canvas: np.ndarray, tracks: Sequence[Track]) -> None:
    x = WIDTH_PX - EDGE_PX - 110 * len(tracks)
    for track in tracks:
        cv2.rectangle(canvas, (x, 12), (x + 14, 24), track.colour, -1)
        _text(canvas, track.name, (x + 20, 23), 0.42)
        x += 110


def _text(canvas: np.ndarray, words: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(canvas, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
