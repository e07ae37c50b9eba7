"""Flow leads from a frame to the next, in pixels, one field per frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from service.errors import VideoTooSmall
from service.pipeline.flow import FlowRule, FlowStation, bound


def moving_texture(count: int, shift_px: int) -> np.ndarray:
    texture = np.random.default_rng(0).integers(0, 255, (64, 64 + shift_px * count), np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 2)
    grey = [texture[:, shift_px * (count - i) : shift_px * (count - i) + 64] for i in range(count)]
    return np.repeat(np.stack(grey)[..., None], 3, axis=3)


@pytest.mark.parametrize("algorithm", ["dis_fast", "dis_medium"])
def test_a_shift_of_three_pixels_is_found(algorithm) -> None:
    station = FlowStation(FlowRule(algorithm))
    fields = station.push(moving_texture(4, 3))
    assert fields.shape == (3, 64, 64, 2)
    assert np.median(fields[..., 0]) == pytest.approx(3, abs=0.3)
    assert np.median(fields[..., 1]) == pytest.approx(0, abs=0.2)


def test_there_is_one_field_per_frame_and_the_last_stands_still() -> None:
    video = moving_texture(7, 2)
    station = FlowStation(FlowRule("dis_fast"))
    fields = [station.push(video[:1]), station.push(video[1:5]), station.push(video[5:]), station.finish()]
    assert [len(part) for part in fields] == [0, 4, 2, 1]
    assert not fields[-1].any()


def test_batches_do_not_change_the_flow() -> None:
    video = moving_texture(6, 2)
    whole = FlowStation(FlowRule("dis_fast")).push(video)
    station = FlowStation(FlowRule("dis_fast"))
    pieces = np.concatenate([station.push(video[:2]), station.push(video[2:3]), station.push(video[3:])])
    assert np.array_equal(whole, pieces)


def test_clipping_and_byte_levels_are_those_of_a_stored_flow_image() -> None:
    flow = np.array([[-50.0, -20.0, 0.0, 0.07, 20.0, 50.0]], np.float32)[..., None]
    assert bound(flow, FlowRule("dis_fast", clip_px=20)).ravel() == pytest.approx([-20, -20, 0, 0.07, 20, 20])
    stored = np.round((np.clip(flow, -20, 20) + 20) / 40 * 255)
    assert bound(flow, FlowRule("dis_fast", 20, quantised=True)) == pytest.approx(stored / 255 * 40 - 20, abs=1e-5)


def test_frames_too_small_for_flow_are_refused() -> None:
    with pytest.raises(VideoTooSmall, match="64x8 px frames: each side needs at least 16 px"):
        FlowStation(FlowRule("dis_fast")).push(np.zeros((2, 8, 64, 3), np.uint8))
