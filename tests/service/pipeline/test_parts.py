"""A part of a video is seen as if it were a file of its own, on the timeline of the whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidOptions
from service.localization import DetectOptions
from service.pipeline import video as reading
from service.pipeline.containers import read_header
from service.pipeline.frame_views import FrameView
from service.pipeline.pipeline import localize
from service.pipeline.seeking import seek_ticks
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions
from tests.service.pipeline import video_samples as samples
from tests.support import bundles as tiny
from tests.support import videos

CPU = OnnxOptions(device="cpu", threads=1)
VIEW = (FrameView("exact", (96, 64)),)
FPS, NUM_FRAMES = 25, 300


def read(path: Path, start_s: float | None = None, end_s: float | None = None, fps: float | None = None):
    """(times, numbers shown, summary) of a part."""
    times_s, numbers = [], []
    with reading.decode(path, VIEW, fps=fps, start_s=start_s, end_s=end_s) as reader:
        for batch in reader:
            times_s += batch.times_s.tolist()
            numbers += [samples.read_number(pixels) for pixels in batch.pixels[0]]
    return times_s, numbers, reader.summary


MAKES = {
    "h264.mp4": {},
    "b-frames.mp4": {"b_frames": 3},
    "open-gop.mp4": {"b_frames": 3, "codec_options": {"x264-params": "open-gop=1:scenecut=0"}},
    "intra-refresh.mkv": {"codec_options": {"x264-params": "intra-refresh=1"}, "gop_frames": 100},
    "vp9.webm": {"codec": "libvpx-vp9", "ticks_per_s": 1000},
    "broadcast.ts": {"b_frames": 2},
    "old.avi": {"codec": "mpeg4"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parts")
    made = {}
    for name, how in MAKES.items():
        ticks = how.get("ticks_per_s", FPS if name.endswith("avi") else 90_000)
        sample = samples.Sample(samples.steady(NUM_FRAMES, FPS), **{**how, "ticks_per_s": ticks})
        made[name] = samples.write(folder / name, sample)
    return made


@pytest.fixture(scope="module")
def wholes(files: dict[str, Path]) -> dict[str, tuple]:
    return {name: read(path) for name, path in files.items()}


@pytest.mark.parametrize("name", list(MAKES))
@pytest.mark.parametrize(("start_s", "end_s"), [(None, 1.5), (0.5, 2.03), (7.7, 8.9), (9.51, None)])
def test_a_part_holds_the_very_frames_of_the_whole(
    files: dict[str, Path], wholes: dict[str, tuple], name: str, start_s: float | None, end_s: float | None
) -> None:
    times_s, numbers, summary = read(files[name], start_s, end_s)
    whole_s, whole_numbers, _ = wholes[name]
    inside = [i for i, t in enumerate(whole_s) if (start_s or -1) <= t < (end_s or 99)]
    assert times_s == [whole_s[i] for i in inside]
    assert numbers == [whole_numbers[i] for i in inside]
    assert end_s is None or summary.end_s <= end_s


@pytest.mark.parametrize(("name", "seeks"), [("h264.mp4", True), ("vp9.webm", True), ("old.avi", False)])
def test_only_containers_that_time_every_picture_are_seeked_in(files: dict[str, Path], name: str, seeks: bool) -> None:
    header = read_header(files[name])
    assert (seek_ticks(files[name], header, 9.5) is not None) == seeks
    assert seek_ticks(files[name], header, 0.5) is None


def test_frames_of_uneven_lengths_keep_their_times(tmp_path: Path) -> None:
    steps = np.random.default_rng(3).integers(1, 9, 250) / 50
    times_s = (np.cumsum(steps) - steps[0]).round(6).tolist()
    path = samples.write(tmp_path / "v.mp4", samples.Sample(times_s, b_frames=2))
    found, numbers, _ = read(path, 12.0, 17.0)
    wanted = [i for i, t in enumerate(times_s) if 12 <= t < 17]
    assert found == pytest.approx([times_s[i] for i in wanted])
    assert numbers == wanted


def test_sampling_a_part_begins_with_its_first_frame(files: dict[str, Path]) -> None:
    times_s, numbers, _ = read(files["b-frames.mp4"], 6.01, 8.0, fps=10)
    assert times_s == pytest.approx([6.04 + k / 10 for k in range(20)])
    assert numbers == [int(FPS * t + 1e-6) for t in times_s]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("m")
    tiny.candidates(folder / "b", windowing={"mode": "sliding", "length": 16, "hop": 8})
    return loaded_model.load(folder / "b", CPU)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 100), st.integers(1, 100))
def test_a_part_gives_the_segments_of_a_file_that_is_cut_there(tmp_path: Path, model, first: int, count: int) -> None:
    level = videos.flashes((1.0, 2.0), (3.0, 3.5), (5.0, 7.0))
    start_s, end_s = first / 25, (first + count) / 25
    whole = videos.write(tmp_path / "whole.mp4", level, duration_s=8)
    cut = videos.write(tmp_path / "cut.mp4", lambda t: level(round(t * 25 + first) / 25), duration_s=count / 25)
    part = localize(whole, model, DetectOptions(start_s=start_s, end_s=end_s))
    alone = localize(cut, model)
    found = sorted((s.start_s - start_s, s.end_s - start_s) for s in part.segments)
    wanted = sorted((s.start_s, s.end_s) for s in alone.segments)
    assert len(found) == len(wanted)
    assert np.allclose(found, wanted, atol=1e-3)
    assert all(start_s <= s.start_s < s.end_s <= end_s for s in part.segments)
    assert part.video.duration_s == pytest.approx(8, abs=0.01)


@pytest.mark.parametrize(
    ("start_s", "end_s", "message"),
    [
        (-1.0, None, "0 <= start_s < end_s is needed"),
        (3.0, 3.0, "0 <= start_s < end_s is needed"),
        (float("nan"), None, "0 <= start_s < end_s is needed"),
        (12.5, None, "start_s is 12.5, but the video lasts until 12.000 s"),
        (3.001, 3.002, "no frame of the video begins between 3.001 s and 3.002 s"),
    ],
)
def test_a_part_that_is_not_there_is_refused(files, model, start_s, end_s, message: str) -> None:
    with pytest.raises(InvalidOptions, match=message):
        localize(files["h264.mp4"], model, DetectOptions(start_s=start_s, end_s=end_s))


def test_where_no_length_is_announced_a_late_start_is_found_by_looking(files) -> None:
    with pytest.raises(InvalidOptions, match=r"the video lasts until 1[12]\.\d+ s"):
        read(files["broadcast.ts"], 30.0)


def test_nothing_behind_the_part_is_decoded(tmp_path: Path, files) -> None:
    """A file that breaks off later gives a part before that without a word."""
    data = files["broadcast.ts"].read_bytes()
    path = tmp_path / "v.ts"
    path.write_bytes(data[: len(data) // 188 // 2 * 188 + 7])
    assert read(path, 0.5, 1.0)[2].warnings == ()
    assert read(path)[2].warnings != ()


def test_curves_over_time_come_only_when_asked_for(tmp_path: Path, model) -> None:
    path = videos.write(tmp_path / "v.mp4", videos.flashes((1.0, 2.0)), duration_s=30)
    assert localize(path, model).activations is None
    curves = localize(path, model, DetectOptions(include=("activations",), start_s=0.5)).activations
    assert curves is not None
    assert curves.labels == ("bright", "dark")
    assert len(curves.times_s) == len(curves.values[0]) <= 512
    assert all(0.5 <= before < after <= 30 for before, after in pairwise(curves.times_s))
    strong_s = [t for t, v in zip(curves.times_s, curves.values[0], strict=True) if v > 0.5]
    assert (strong_s[0], strong_s[-1]) == pytest.approx((1, 2), abs=0.2)


def test_the_curves_of_a_classifier_are_its_own_and_keep_their_peaks(tmp_path: Path) -> None:
    tiny.classifier(tmp_path / "b")
    path = videos.write(tmp_path / "v.mp4", videos.flashes((11.0, 11.04)), duration_s=60)
    options = DetectOptions(include=("activations",), labels=("bright",))
    curves = localize(path, loaded_model.load(tmp_path / "b", CPU), options).activations
    assert curves is not None
    assert (curves.labels, len(curves.times_s)) == (("bright",), 512)
    assert curves.times_s[int(np.argmax(curves.values[0]))] == pytest.approx(11.02, abs=0.06)
    assert max(curves.values[0]) > 0.9
