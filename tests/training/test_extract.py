"""Extraction of folders of videos, with real worker processes: whole, resumed, interrupted and with bad videos."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from models import bundle as bundle_files
from service.errors import CorruptVideo, InferenceFailed, InvalidBundle, InvalidOptions
from service.localization import DetectOptions
from service.pipeline import detection, segments
from service.pipeline.pipeline import Decoding, localize
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions
from tests.support import bundles, graphs, videos
from training import extract as extracting
from training import feature_files
from training.extract import ExtractionPlan, extract
from training.run_folder import sole_writer

pytestmark = pytest.mark.slow

CPU = OnnxOptions(device="cpu", threads=1)
NUM_VIDEOS = 6
RUN = """
import signal, sys
from pathlib import Path
from service.runtime.onnx_session import OnnxOptions
from training import extract
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
bundle, out, videos = map(Path, sys.argv[1:4])
plan = extract.ExtractionPlan(bundle, out, OnnxOptions(device="cpu", threads=1), workers=int(sys.argv[4]))
extract.extract(extract.find_videos([videos]), plan)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Videos, a bundle with a detector, and the features of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("extraction")
    (folder / "videos" / "deep").mkdir(parents=True)
    for number in range(NUM_VIDEOS):
        name = f"deep/v{number}.mp4" if number % 2 else f"v{number}.mp4"
        flash = videos.flashes((0.2 * number, 0.2 * number + 0.5))
        videos.write(folder / "videos" / name, flash, duration_s=2 + 0.1 * number)
    bundles.candidates(folder / "bundle")
    extract(
        extracting.find_videos([folder / "videos"]), ExtractionPlan(folder / "bundle", folder / "out", CPU, workers=2)
    )
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """The finished folder, to be spoilt."""
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def two_streams(folder: Path, flow_size_px: tuple[int, int] = (64, 48)) -> None:
    """A bundle of brightness and mean displacement, with a detector that nobody runs here."""
    flow = bundles.stream(
        name="flow",
        kind="flow",
        graph="features.flow.onnx",
        clip_frames=4,
        resize={"mode": "exact", "size_px": list(flow_size_px)},
        outputs={"features": "features"},
        input={"dtype": "float32"},
        flow={"algorithm": "dis_fast", "clip_px": 20.0},
    )
    files = {
        "features.rgb.onnx": graphs.brightness_features(),
        "features.flow.onnx": graphs.flow_features(),
        "detector.onnx": graphs.point_candidates(),
    }
    described = bundles.manifest(
        streams=[bundles.stream(outputs={"features": "features"}, clip_frames=4), flow],
        grid={"fps": "native", "stride_frames": 2, "offset_frames": 2, "tail": "drop"},
        output_kind="candidates",
        windowing={"mode": "whole", "multiple_of": 4},
        detector={"graph": "detector.onnx"},
        postprocessing={"use": {"nms": {"kind": "hard", "iou_threshold": 0.5}}},
    )
    bundle_files.write(folder, described, files)


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> Path:
    """A video that takes minutes, since its flow is computed at a great size."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "videos").mkdir()
    videos.write(folder / "videos" / "long.mp4", lambda _: 100, duration_s=60)
    two_streams(folder / "bundle", (1920, 1440))
    return folder


def plan(made: Path, out: Path, **changes) -> ExtractionPlan:
    return replace(ExtractionPlan(made / "bundle", out, CPU), **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def moments(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


def start(made: Path, out: Path, workers: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, str(made / "bundle"), str(out), str(made / "videos"), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.002)


def wait_for_end(processes: list[psutil.Process]) -> None:
    assert processes
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_every_video_of_a_folder_gets_its_features_and_the_folder_its_settings(made):
    names = {f"v{number}.npz" for number in range(NUM_VIDEOS)}
    assert set(contents(made / "out")) == names | {"features.json"}
    settings = feature_files.read_settings(made / "out")
    assert (settings.channels, settings.clip_span_frames, settings.grid.stride_frames) == (3, 4, 2)
    feature_files.refuse_mismatch(settings, bundle_files.read(made / "bundle").manifest)


def test_features_from_the_file_give_the_segments_that_the_video_gives(made):
    model = loaded_model.load(made / "bundle", CPU)
    settings = feature_files.read_settings(made / "out")
    sequence = feature_files.load(made / "out" / "v2.npz", settings)
    rules = model.manifest.postprocessing.use
    found = detection.detect(sequence, model, rules)
    options = DetectOptions()
    given = segments.finalize(found.detections, found.grid, rules, model.manifest.segment_labels, options, None)
    expected = localize(made / "videos" / "v2.mp4", model, options).segments
    assert expected
    assert tuple(given) == expected


def test_killed_in_the_middle_workers_end_and_the_next_run_gives_the_same_files(made, tmp_path):
    out = tmp_path / "out"
    run = start(made, out)
    wait_for(lambda: any(out.glob("*.npz")))
    descendants = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.communicate()
    wait_for_end(descendants)
    before = moments(out)
    assert 1 <= len(before) < NUM_VIDEOS
    (out / ".v5.npz.1.part").write_bytes(b"left behind")
    result = extract(extracting.find_videos([made / "videos"]), plan(made, out))
    assert contents(out) == contents(made / "out")
    assert {name: moment for name, moment in moments(out).items() if name in before} == before
    assert len(result.skipped) == len(before)


@pytest.mark.parametrize(
    ("number", "status", "tracebacks"),
    [(signal.SIGKILL, -signal.SIGKILL, 0), (signal.SIGTERM, 143, 0), (signal.SIGINT, -signal.SIGINT, 1)],
)
def test_stopped_within_a_long_video_its_workers_end_at_once(slow, tmp_path, number, status, tracebacks):
    """An interrupt goes to the whole group, as a terminal sends it; one process answers."""
    out = tmp_path / "out"
    run = start(slow, out, workers=1)
    wait_for((out / "features.json").exists)
    time.sleep(0.3)
    descendants = psutil.Process(run.pid).children(recursive=True)
    (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
    told = run.communicate(timeout=20)[1]
    wait_for_end(descendants)
    assert (run.returncode, told.count(b"Traceback")) == (status, tracebacks)
    assert [path.name for path in out.iterdir()] == ["features.json"]


def test_what_is_done_is_not_touched_and_starts_no_worker(made, copy):
    before = moments(copy)
    lazy = plan(made, copy, onnx=OnnxOptions(device="cuda"))  # which a worker would refuse
    result = extract(extracting.find_videos([made / "videos"]), lazy)
    assert (len(result.made), len(result.skipped)) == (0, NUM_VIDEOS)
    assert moments(copy) == before


def test_damaged_foreign_and_outdated_files_are_made_again_and_only_those(made, copy):
    damaged = bytearray((copy / "v0.npz").read_bytes())
    damaged[300] ^= 255
    (copy / "v0.npz").write_bytes(damaged)
    (copy / "v1.npz").write_bytes((copy / "v1.npz").read_bytes()[:400])
    shutil.copy(copy / "v4.npz", copy / "v2.npz")  # of a video of another size
    result = extract(extracting.find_videos([made / "videos"]), plan(made, copy))
    assert set(result.made) == {"v0", "v1", "v2"}
    assert contents(copy) == contents(made / "out")


def test_a_folder_of_other_settings_is_refused_by_name_unless_forced(made, copy, tmp_path):
    other = bundles.candidates(
        tmp_path / "other", grid={"fps": "native", "stride_frames": 4, "offset_frames": 2, "tail": "drop"}
    ).folder
    sources = [made / "videos" / "v0.mp4"]
    with pytest.raises(InvalidOptions, match=r"stride 4 given, 2 expected; dtype float16 given, float32 expected"):
        extract(sources, plan(made, copy, bundle=other, dtype="float16"))
    assert contents(copy) == contents(made / "out")
    extract(sources, plan(made, copy, bundle=other, force=True))
    settings = feature_files.read_settings(copy)
    assert feature_files.load(copy / "v0.npz", settings).grid.stride_frames == 4
    with pytest.raises(InvalidOptions, match=r"v1\.npz: was made with other settings"):
        feature_files.load(copy / "v1.npz", settings)


def test_a_bad_video_is_told_and_does_not_stop_the_others(made, tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy(made / "videos" / "v0.mp4", tmp_path / "videos" / "b.mp4")
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video")
    told = []
    sources = extracting.find_videos([tmp_path / "videos"])
    result = extract(sources, plan(made, tmp_path / "out"), on_failure=told.append)
    assert (result.made, [failure.video.name for failure in result.failed]) == (("b",), ["a.mp4"])
    assert tuple(told) == result.failed
    failed = json.loads((tmp_path / "out" / "failed.json").read_text())
    assert failed == {str(tmp_path / "videos" / "a.mp4"): {"code": "unsupported_media", "error": told[0].error}}
    shutil.copy(made / "videos" / "v2.mp4", tmp_path / "videos" / "a.mp4")
    result = extract(sources, plan(made, tmp_path / "out"))
    assert (result.made, result.skipped) == (("a",), ("b",))
    assert not (tmp_path / "out" / "failed.json").exists()


def test_a_worker_that_dies_costs_its_video_and_is_replaced(made, tmp_path):
    sources = extracting.find_videos([made / "videos"])
    killed = []

    def kill_once(progress):
        if not killed and progress.videos_done == 1:
            killed.extend(child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline()))
            for child in killed:
                child.kill()

    result = extract(sources, plan(made, tmp_path / "out"), on_progress=kill_once)
    assert killed
    assert len(result.made) == NUM_VIDEOS - 1
    assert "the worker process ended with status -9" in result.failed[0].error


def test_a_worker_that_dies_while_it_loads_ends_the_run(made, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # which a worker takes over
    (tmp_path / "numpy.py").write_text("import os; os._exit(7)")
    with pytest.raises(InferenceFailed, match="ended with status 7 before it had loaded the bundle"):
        extract([made / "videos" / "v0.mp4"], plan(made, tmp_path / "out"))


def test_two_streams_stand_side_by_side_and_a_moving_picture_flows(tmp_path):
    two_streams(tmp_path / "bundle")
    texture = np.random.default_rng(0).integers(0, 256, (48, 16), dtype=np.uint8).repeat(8, axis=1)[..., None]
    videos.write(tmp_path / "move.mp4", lambda t: np.roll(texture, round(50 * t), axis=1)[:, :64], duration_s=1)
    extract([tmp_path / "move.mp4"], ExtractionPlan(tmp_path / "bundle", tmp_path / "out", CPU))
    settings = feature_files.read_settings(tmp_path / "out")
    values = feature_files.load(tmp_path / "out" / "move.npz", settings).values
    assert settings.channels == 5
    assert values.shape == (11, 5)
    assert np.all(values[:, 0] > 0.3)
    assert np.median(values[:, 3]) > 0.3  # two pixels to the right with each frame, less where it leaves the picture
    assert [stream.flow.algorithm if stream.flow else None for stream in settings.streams] == [None, "dis_fast"]


def test_a_bundle_without_a_detector_is_enough_and_scores_come_along(made, tmp_path):
    streams = [bundles.stream(outputs={"features": "features", "scores": "features"}, clip_frames=4)]
    bundle = bundle_files.write(
        tmp_path / "bundle",
        bundles.manifest(streams=streams),
        {"features.rgb.onnx": graphs.brightness_features(channels=2)},
    )
    source = made / "videos" / "v0.mp4"
    wanted = ExtractionPlan(bundle.folder, tmp_path / "out", CPU, dtype="float16", with_scores=True)
    extract([source], wanted)
    settings = feature_files.read_settings(tmp_path / "out")
    found = feature_files.load(tmp_path / "out" / "v0.npz", settings)
    assert settings.scores is not None
    assert settings.scores.labels == ("bright", "dark")
    np.testing.assert_allclose(found.scores, found.values, rtol=1e-3)
    with pytest.raises(InvalidOptions, match="class scores stored otherwise"):
        extract([source], replace(wanted, with_scores=False))


def test_a_bundle_that_gives_no_features_is_refused(made, tmp_path):
    bundle = bundles.classifier(tmp_path / "bundle")
    with pytest.raises(InvalidOptions, match="stream 'rgb' names no features output"):
        extract([made / "videos" / "v0.mp4"], plan(made, tmp_path / "out", bundle=bundle.folder))
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_does_not_load_is_told_once_by_its_own_error(made, tmp_path):
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    graph = tmp_path / "bundle" / "features.rgb.onnx"
    graph.write_bytes(bytes(len(graph.read_bytes())))
    with pytest.raises(InvalidBundle, match="was changed or damaged"):
        extract([made / "videos" / "v0.mp4"], plan(made, tmp_path / "out", bundle=tmp_path / "bundle", workers=2))


def test_videos_of_one_name_are_refused_with_all_their_paths(made, tmp_path):
    sources = [tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mp4", tmp_path / "y.mp4", tmp_path / "y.mkv"]
    with pytest.raises(InvalidOptions) as caught:
        extract(sources, plan(made, tmp_path / "out"))
    assert all(str(path) in str(caught.value) for path in sources)


def test_two_runs_do_not_write_into_one_folder(made, copy):
    with sole_writer(copy, "writing features"), pytest.raises(InvalidOptions, match="another run is writing"):
        extract([made / "videos" / "v0.mp4"], plan(made, copy))


def test_plans_that_cannot_be_are_told_all_at_once(made, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InvalidOptions, match=r"workers is 0.*dtype is 'int8'.*out is no folder"):
        extract([made / "videos" / "v0.mp4"], plan(made, tmp_path / "out", workers=0, dtype="int8"))


def test_videos_are_found_to_the_bottom_of_a_folder_and_hidden_ones_are_not(tmp_path):
    for name in ("b.MP4", "a/c.mkv", "a/notes.txt", ".hidden/d.mp4", ".e.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert extracting.find_videos([tmp_path]) == [tmp_path / "a" / "c.mkv", tmp_path / "b.MP4"]
    odd = tmp_path / "a" / "notes.txt"
    assert extracting.find_videos([odd, odd]) == [odd]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidOptions, match=r"gone is neither a file nor a folder; .*empty holds no video"):
        extracting.find_videos([tmp_path / "gone", tmp_path / "empty"])


def test_progress_counts_bytes_and_ends_at_all_of_them(made, tmp_path):
    seen = []
    extract([made / "videos" / "v0.mp4"], plan(made, tmp_path / "out"), on_progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes == (made / "videos" / "v0.mp4").stat().st_size
    assert (seen[-1].videos_done, seen[-1].videos_total) == (1, 1)


def test_one_video_is_extracted_as_detection_would_see_it(made):
    model = loaded_model.load(made / "bundle", CPU)
    sequence = extracting.extract_video(made / "videos" / "v0.mp4", model, Decoding())
    stored = feature_files.load(made / "out" / "v0.npz", feature_files.read_settings(made / "out"))
    np.testing.assert_array_equal(sequence.values, stored.values)
    (made / "none.mp4").touch()
    with pytest.raises(CorruptVideo, match="empty"):
        extracting.extract_video(made / "none.mp4", model, Decoding())
