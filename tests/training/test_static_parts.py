"""Still parts of videos against the published tool, naive implementations and their own laws; and motion of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import InvalidOptions
from service.pipeline.snippets import SnippetGrid
from tests.support import golden, videos
from training import motion, static_parts
from training.static_parts import Motion, StaticRule

FPS = 25
SETS = ("cmcs/random_i3d", "cmcs/random_anet")


def moving(intensity: np.ndarray, fps: float = FPS) -> Motion:
    return Motion(np.asarray(intensity, np.float64), np.arange(len(intensity)) / fps)


@pytest.mark.parametrize("name", SETS)
def test_still_frames_equal_those_of_the_published_tool(name: str) -> None:
    known = golden.read(name)
    intensity, expected = known.outputs["hn/intensity"], known.outputs["hn/mask"].astype(bool)
    assert expected.any() == (name == "cmcs/random_i3d")  # the other has still moments, all of them too short
    found = static_parts.static_frames(moving(intensity), StaticRule())
    np.testing.assert_array_equal(found, expected)
    unlogged = static_parts.static_frames(moving(np.exp(intensity)), StaticRule())
    np.testing.assert_array_equal(unlogged, expected)  # any rising measure of motion will do


@pytest.mark.parametrize("name", SETS)
def test_videos_are_kept_and_cut_as_the_published_loader_does(name: str) -> None:
    known, verdicts = golden.read(name), set()
    for number in range(sum(key.endswith("/mask") for key in known.inputs if key.startswith("hn/bg/"))):
        stored = f"hn/bg/{number}"
        mask = known.inputs[f"{stored}/mask"].astype(bool)
        kept = static_parts.is_usable(mask, StaticRule())
        assert kept == bool(known.outputs[f"{stored}/kept"])
        verdicts.add(kept)
        if not kept:
            continue
        features = known.inputs[f"{stored}/rgb"]
        times_s = np.arange(len(mask)) / FPS
        grid = SnippetGrid(times_s, len(mask) / FPS, known.config["sample_rate"], 0)
        rows = static_parts.static_rows(mask, Motion(np.zeros(len(mask)), times_s), grid, features.shape[1])
        np.testing.assert_array_equal(features[:, rows], known.outputs[f"{stored}/features"])
        assert known.outputs[f"{stored}/label"] == known.config["action_class_num"]
    assert verdicts == {True, False}


def naive_median(still: np.ndarray, width: int) -> np.ndarray:
    padded = np.pad(still.astype(float), width // 2)
    return np.array([np.median(padded[at : at + width]) for at in range(len(still))]) > 0.5


def without_short(mask: np.ndarray, least: int) -> np.ndarray:
    kept, start = mask.copy(), None
    for at, value in enumerate([*mask, False]):
        if value and start is None:
            start = at
        elif not value and start is not None:
            kept[start:at] &= at - start >= least
            start = None
    return kept


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(2, 9))
def test_smoothing_is_a_median_over_the_least_length(steps: list[int], least: int) -> None:
    rule = StaticRule(percentile=40, least_s=least / FPS)
    still = np.array(steps) < np.percentile(steps, 40)
    expected = without_short(naive_median(still, least - 1 + least % 2), least)
    np.testing.assert_array_equal(static_parts.static_frames(moving(np.array(steps)), rule), expected)


def test_widening_keeps_moments_that_a_median_drops() -> None:
    intensity = np.full(300, 9.0)
    intensity[[100, 110, 120]] = 0.0
    rule = {"percentile": 5.0, "least_s": 1.0}
    assert not static_parts.static_frames(moving(intensity), StaticRule(**rule)).any()
    widened = static_parts.static_frames(moving(intensity), StaticRule(**rule, smoothing="dilation"))
    assert np.flatnonzero(widened).tolist() == list(range(88, 133))


@pytest.mark.parametrize("share", [(0.0, 0.1), (0.5, 1.0)])
def test_a_video_with_too_little_or_too_much_stillness_is_of_no_use(share: tuple[float, float]) -> None:
    mask = np.arange(100) < 30
    assert static_parts.is_usable(mask, StaticRule())
    assert not static_parts.is_usable(mask, StaticRule(share=share))
    assert not static_parts.is_usable(np.zeros(100, bool), StaticRule(share=(0, 1)))


def test_a_snippet_is_as_still_as_the_frame_that_it_stands_at() -> None:
    mask = np.array([False, True, True, False])
    found = Motion(np.zeros(4), np.array([1.0, 1.1, 1.2, 1.3]))
    grid = SnippetGrid(np.array([1.0, 1.1, 1.2, 1.3]), 1.4, 2, 1)
    assert static_parts.static_rows(mask, found, grid, 3).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"intensity": np.zeros(3)}, "lacks frame_times_s"),
        ({"intensity": np.zeros(3), "frame_times_s": np.zeros(2)}, r"intensity \(3,\) and frame_times_s \(2,\)"),
        ({"intensity": np.array([0, np.nan]), "frame_times_s": np.zeros(2)}, "a finite number"),
        ({"intensity": np.zeros(2), "frame_times_s": np.array([1.0, 0.5])}, "a rising time"),
        ({"intensity": np.array(["1", "2"]), "frame_times_s": np.zeros(2)}, "numbers are needed"),
        ({"intensity": np.zeros(0), "frame_times_s": np.zeros(0)}, "for every frame"),
    ],
)
def test_a_file_that_tells_no_motion_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], told: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InvalidOptions, match=told):
        static_parts.read(tmp_path, "a")


@pytest.mark.parametrize("changes", [{"percentile": 0}, {"percentile": 100}, {"least_s": 0}, {"share": (0.5, 0.1)}])
def test_a_rule_that_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        StaticRule(**changes)


def test_motion_of_a_video_is_low_where_its_picture_stands(tmp_path: Path) -> None:
    def picture(at_s: float) -> np.ndarray:
        shift = 0 if at_s < 1 else round(80 * (at_s - 1))
        texture = np.random.default_rng(0).integers(0, 255, (96, 400, 1)).repeat(4, 0).repeat(4, 1)[:96, :400]
        return np.ascontiguousarray(np.roll(texture, shift, axis=1)[:, :128].repeat(3, 2)).astype(np.uint8)

    path = videos.write(tmp_path / "a.mp4", picture, duration_s=2, size_px=(128, 96))
    assert motion.write([path], tmp_path / "motion") == motion.Written(1, 0, ())
    assert motion.write([path], tmp_path / "motion") == motion.Written(0, 1, ())
    found = static_parts.read(tmp_path / "motion", "a")
    still = found.frame_times_s < 0.9
    assert found.intensity[still].max() < found.intensity[found.frame_times_s > 1.1].min()
    other = tmp_path / "b" / "a.mp4"
    with pytest.raises(InvalidOptions, match=rf"the same file: 'a' \({path}, {other}\)"):
        motion.write([path, other], tmp_path / "motion")


def test_motion_is_made_again_where_it_cannot_be_read_and_never_at_another_rate(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mp4", videos.flashes((0, 1)), duration_s=1)
    out = tmp_path / "motion"
    motion.write([path], out, fps=10)
    content = (out / "a.npz").read_bytes()
    for damaged in (b"", content[:100], b"no archive"):
        (out / "a.npz").write_bytes(damaged)
        assert motion.write([path], out, fps=10).made == 1
        assert len(static_parts.read(out, "a").intensity) == 10
    for fps, told in ((5.0, "10 frames a second, and 5 frames"), (None, "10 frames a second, and every frame")):
        with pytest.raises(InvalidOptions, match=told):
            motion.write([path], out, fps=fps)
    with pytest.raises(InvalidOptions, match="sampling rate is 1000000"):
        motion.write([path], out, fps=1e6)
    with pytest.raises(InvalidOptions, match="workers is 0"):
        motion.write([path], out, fps=10, workers=0)
    with pytest.raises(InvalidOptions, match="cannot be written"):
        motion.write([path], path)
    np.savez(out / "a.npz", values=np.zeros((3, 2)))  # features, of a folder that was not meant
    features = (out / "a.npz").read_bytes()
    with pytest.raises(InvalidOptions, match=r"a\.npz: lacks frame_times_s, intensity"):
        motion.write([path], out, fps=10)
    assert (out / "a.npz").read_bytes() == features
    ours = {"intensity": np.arange(3.0), "frame_times_s": np.arange(3.0)}  # of a measure of one's own
    np.savez(out / "a.npz", **ours)
    assert motion.write([path], out, fps=5).kept == 1


def test_motion_of_another_video_is_refused() -> None:
    static_parts.check_cover(moving(np.zeros(30 * FPS)), 30.0, "a")
    static_parts.check_cover(moving(np.zeros(1)), np.nan, "a")
    for frames in (1, 18 * FPS - FPS, 48 * FPS):
        with pytest.raises(InvalidOptions, match=r"a: .* the video lasts 30.0 s: the motion is of another video"):
            static_parts.check_cover(moving(np.zeros(frames)), 30.0, "a")
