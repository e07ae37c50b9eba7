"""Bars stand where their segments are, in their source's colour, as strong as their score."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from service import timeline
from service.errors import InvalidOptions
from service.localization import Segment
from service.timeline import Track

GREEN, RED = (0, 160, 0), (0, 0, 200)


def drawn(path: Path, *tracks: Track, duration_s: float = 20.0) -> np.ndarray:
    timeline.draw(path, "a video", duration_s, tracks)
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


def columns_of(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Of the rows below the legend."""
    return np.flatnonzero((picture[timeline.TITLE_PX :] == colour).all(axis=2).any(axis=0))


def test_a_bar_spans_its_segment(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "t.png", Track("truth", GREEN, (Segment(5.0, 10.0, "jump", 1.0),)))
    columns = columns_of(picture, GREEN)
    scale = (timeline.WIDTH_PX - timeline.LEFT_PX - timeline.EDGE_PX) / 20
    assert columns[0] == pytest.approx(timeline.LEFT_PX + 5 * scale, abs=1)
    assert columns[-1] == pytest.approx(timeline.LEFT_PX + 10 * scale, abs=1)


def test_a_weak_answer_is_paler_than_a_strong_one(tmp_path: Path) -> None:
    found = Track("found", RED, (Segment(1, 4, "jump", 0.9), Segment(10, 14, "jump", 0.2)))
    picture = drawn(tmp_path / "t.png", found)
    row = picture[timeline.TITLE_PX + 4].astype(int)
    scale = (timeline.WIDTH_PX - timeline.LEFT_PX - timeline.EDGE_PX) / 20
    strong, weak = (row[int(timeline.LEFT_PX + moment * scale)].sum() for moment in (3.5, 13.5))
    assert strong < weak < 3 * 255


def test_a_weak_answer_does_not_cover_a_strong_one(tmp_path: Path) -> None:
    found = Track("found", RED, (Segment(2, 8, "jump", 1.0), Segment(1, 9, "jump", 0.1)))
    columns = columns_of(drawn(tmp_path / "t.png", found), RED)
    assert columns[-1] - columns[0] == pytest.approx(6 / 20 * 936, abs=3)


def test_each_label_has_rows_of_its_own(tmp_path: Path) -> None:
    one = drawn(tmp_path / "a.png", Track("truth", GREEN, (Segment(1, 2, "jump", 1.0),)))
    two = drawn(tmp_path / "b.png", Track("truth", GREEN, (Segment(1, 2, "jump", 1.0), Segment(1, 2, "bow", 1.0))))
    assert two.shape[0] > one.shape[0]


def test_a_video_without_any_segment_has_a_timeline_too(tmp_path: Path) -> None:
    assert drawn(tmp_path / "t.png", Track("found", RED, ())).size


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match=r"\.png"):
        timeline.draw(tmp_path / "t.png" / "missing.png", "a video", 1.0, ())
