"""Videos and truth as files: the same bytes at every run, resumable, readable by what reads data sets and videos."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.errors import InvalidOptions
from service.pipeline import video
from service.pipeline.frame_views import FrameView
from training.evaluation.annotations import read_ground_truth
from training.marionette import benchmark, encode, render
from training.marionette.benchmark import Plan
from training.marionette.script import Codec, Container, Script, write

pytestmark = pytest.mark.slow


def short(script: Script, seconds: float = 2.0) -> Script:
    return replace(script, duration_s=seconds)


@pytest.mark.parametrize(
    ("codec", "container", "quality"),
    [("h264", "mp4", 28), ("h264", "mkv", 24), ("hevc", "mp4", 30), ("mpeg4", "avi", 6), ("vp9", "webm", 36)],
)
@pytest.mark.parametrize("variable", [False, True])
def test_every_kind_of_file_has_the_same_bytes_twice_and_the_times_that_were_asked_for(
    tmp_path: Path, codec: Codec, container: Container, quality: int, variable: bool
) -> None:
    script = short(write("train", 1, 0))
    storage = replace(
        script.storage,
        codec=codec,
        container=container,
        quality=quality,
        variable_rate=variable and container in {"mp4", "mkv"},
    )
    script = replace(script, storage=storage)
    paths = [tmp_path / f"{name}.{container}" for name in "ab"]
    for path in paths:
        benchmark.render_video(script, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with video.decode(paths[0], (FrameView("none", None, "linear"),)) as reader:
        times_s = np.concatenate([batch.times_s for batch in reader])
    np.testing.assert_allclose(times_s, encode.times_s(script), atol=2e-3)


def test_pictures_but_for_noise_do_not_depend_on_which_were_drawn_before() -> None:
    script = replace(write("val", 2, 0), light=replace(write("val", 2, 0).light, noise=0.0))
    whole = list(render.frames(script, iter([0.5, 1.0, 1.5])))
    alone = list(render.frames(script, iter([1.5])))
    np.testing.assert_array_equal(whole[2], alone[0])


def test_an_action_moves_the_picture_more_than_standing_still_does() -> None:
    script = next(
        one
        for one in (write("train", number, 0) for number in range(50))
        if not one.camera.pan_m and not one.camera.shake_m and one.instances and one.movers == 0
    )
    quiet = replace(script, light=replace(script.light, noise=0.0, swing=0.0), passers=())
    event = quiet.instances[0]
    moments = np.linspace(event.start_s, event.end_s, 9)
    acting = np.stack(list(render.frames(quiet, iter(moments)))).astype(float)
    nobody = replace(quiet, actors=())
    still = np.stack(list(render.frames(nobody, iter(moments)))).astype(float)
    assert np.abs(np.diff(acting, axis=0)).mean() > np.abs(np.diff(still, axis=0)).mean() + 0.1


def test_the_command_writes_videos_and_a_truth_that_evaluation_reads(tmp_path: Path) -> None:
    counts = ["--train", "1", "--val", "0", "--test", "1", "--seed", "84", "--workers", "2"]
    answer = CliRunner().invoke(app, ["synth", str(tmp_path / "m"), *counts])
    assert answer.exit_code == 0, answer.output
    truth = read_ground_truth(tmp_path / "m" / "annotations.json", "testing")
    assert truth.videos == ("marionette_test_0000",)
    database = json.loads((tmp_path / "m" / "annotations.json").read_text())["database"]
    for entry in database.values():
        info = video.probe(tmp_path / "m" / "videos" / entry["file"])
        assert info.duration_s == pytest.approx(entry["duration"], abs=0.1)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from service.cli import main; main()", "synth"]
    # A seed whose first videos are short.
    counts = ["--train", "2", "--val", "0", "--test", "0", "--seed", "295", "--workers", "1"]
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, str(killed), *counts], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list((killed / "videos").glob("*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    for folder in (killed, tmp_path / "whole"):
        subprocess.run([*command, str(folder), *counts], check=True, capture_output=True)
    files = sorted(path.relative_to(killed) for path in killed.rglob("*") if path.is_file())
    assert len(files) == 3
    for name in files:
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_of_another_seed_is_not_continued(tmp_path: Path) -> None:
    benchmark._write_truth(tmp_path / "annotations.json", {"seed": 1}, Plan(1, 0, 0, 1))
    with pytest.raises(InvalidOptions, match="another seed"):
        benchmark.generate(tmp_path, Plan(1, 0, 0, 2))


def test_videos_without_their_truth_are_not_taken_for_others(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "marionette_train_0000.mp4").write_bytes(b"of another seed")
    with pytest.raises(InvalidOptions, match="empty it first"):
        benchmark.generate(tmp_path, Plan(1, 0, 0, 2))


def test_workers_end_when_the_command_is_killed(tmp_path: Path) -> None:
    counts = ["--train", "4", "--val", "0", "--test", "0", "--seed", "11", "--workers", "2"]
    command = [sys.executable, "-c", "from service.cli import main; main()", "synth", str(tmp_path / "m"), *counts]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(list((tmp_path / "m" / "videos").glob("*.part"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


@pytest.mark.parametrize(("plan", "told"), [((0, 0, 0, 0), "no video"), ((-1, 1, 1, 0), "train is -1")])
def test_impossible_counts_are_refused(plan: tuple[int, int, int, int], told: str) -> None:
    with pytest.raises(InvalidOptions, match=told):
        Plan(*plan)
