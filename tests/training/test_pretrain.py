"""A backbone learns to name what happens in clips; a killed run goes on to the same numbers; bad plans are refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from exporters import export, recipe
from models.backbones.i3d import I3d, I3dConfig
from service.cli import app
from service.errors import InvalidOptions
from service.pipeline import video
from service.pipeline.flow import FlowRule, FlowStation
from service.pipeline.frame_views import FrameView
from tests.support import videos
from training import pretrain
from training.clip_frames import FrameForm, FrameStore, displacements, video_files
from training.clip_job import ClipJob, ClipRules, Clips
from training.evaluation.annotations import read_ground_truth
from training.marionette.motions import LABELS

ACTIONS = {"a": (1.0, 3.0), "b": (2.0, 4.0), "c": (0.5, 2.5)}
TRAINING = {"epochs": 6, "steps_per_epoch": 5, "batch_size": 6, "learning_rate": 0.01, "weight_decay": 0.0, "ema": 0.5,
            "validation_clips": 32, "checkpoint_every_steps": 5, "validate_every_epochs": 1, "shift_px": 2}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Videos that flash bright while the action lasts."""
    (tmp_path / "videos").mkdir()
    database = {}
    for name, interval_s in ACTIONS.items():
        videos.write(tmp_path / "videos" / f"{name}.mp4", videos.flashes(interval_s), duration_s=5, fps=10)
        subset = "validation" if name == "c" else "training"
        annotation = {"segment": list(interval_s), "label": "bright"}
        database[name] = {"subset": subset, "duration": 5.0, "annotations": [annotation]}
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    return tmp_path


def plan(root: Path, kind: str = "rgb", **changes: object) -> Path:
    options = {"clip_frames": 4, "size_px": 32, "width": 0.05, "dropout": 0.0}
    document = {
        "name": "flashes",
        "truth": "truth.json",
        "videos": "videos",
        "frames": "frames",
        "fps": 10,
        "backbone": {"network": "i3d", "preset": f"compact-{kind}", "options": options},
        "training": TRAINING,
        **changes,
    }
    path = root / "plan.json"
    path.write_text(json.dumps(document))
    return path


def test_the_command_trains_a_backbone_that_tells_bright_from_dark(root: Path) -> None:
    longer = plan(root, training={**TRAINING, "epochs": 16, "validate_every_epochs": 16})
    answer = CliRunner().invoke(app, ["pretrain", str(longer), "--out", str(root / "run")])
    assert answer.exit_code == 0, answer.output
    result = json.loads((root / "run" / "result.json").read_text())
    assert result["labels"] == ["bright"]
    assert 0 <= result["validation"]["average"] <= 1
    rows = csv.DictReader((root / "run" / "curve.csv").read_text().splitlines())
    losses = [float(row["total"]) for row in rows]
    # In so few steps batch norm's running means have not settled, so validation says little; the loss does.
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:3])
    assert (root / "run" / "weights.safetensors").is_file()


@pytest.mark.parametrize("kind", ["rgb", "flow"])
def test_the_recipe_serves_the_pixels_that_were_trained_on(root: Path, kind: str) -> None:
    pretrain.run(pretrain.read(plan(root, kind, stride_frames=2)), root, root / "run", "cpu")
    manifest = export.plan(recipe.read(root / "run" / "recipe.json"), root / "run", "onnx").eager.bundle.manifest
    stream = manifest.streams[0]
    assert (stream.resize.mode, stream.resize.size_px, stream.resize.interpolation) == ("exact", (32, 32), "area")
    assert (manifest.grid.fps, manifest.grid.stride_frames, stream.clip_frames) == (10, 2, 4)
    if kind == "flow":
        assert stream.flow is not None
        assert (stream.flow.algorithm, stream.flow.clip_px, stream.flow.quantised) == ("dis_fast", 20.0, True)


def test_a_video_that_starts_late_is_learnt_at_its_own_times(root: Path) -> None:
    """Labels are on the presentation timeline, frames are counted from the first picture."""
    store = FrameStore(video_files(root / "videos", ["a"]), root / "frames", FrameForm(10, 32, None))
    store.prepare(workers=1)
    truth = read_ground_truth(root / "truth.json", "training")
    store.start_s = lambda name: 0.5  # type: ignore[method-assign]
    only_a = replace(truth, videos=("a",), video_indices=truth.video_indices[:1], segments_s=truth.segments_s[:1],
                     label_indices=truth.label_indices[:1])  # fmt: skip
    np.testing.assert_allclose(Clips(only_a, store, 10, ("bright",)).spans, [[5.0, 25.0]])


def test_frames_are_decoded_again_when_their_video_changes(root: Path) -> None:
    files, form = video_files(root / "videos", ["a"]), FrameForm(10, 32, None)
    FrameStore(files, root / "frames", form).prepare(workers=1)
    videos.write(files["a"], videos.flashes((0, 1)), duration_s=2, fps=10)
    store = FrameStore(files, root / "frames", form)
    store.prepare(workers=1)
    assert len(store.frames("a")) == 20


def test_a_video_that_stands_twice_is_told(root: Path) -> None:
    (root / "videos" / "a.mkv").write_bytes(b"")
    (root / "videos" / "a.srt").write_text("subtitles are no video")
    with pytest.raises(InvalidOptions, match=r"more than once: a \(.*a\.mkv, .*a\.mp4\)"):
        video_files(root / "videos", ["a"])


def test_a_stopped_run_goes_on_to_the_same_weights(root: Path) -> None:
    wanted = pretrain.read(plan(root))
    whole = pretrain.run(wanted, root, root / "whole", "cpu")

    class StoppedError(Exception):
        pass

    def stop(step: object) -> None:
        if step.step == 7:  # type: ignore[attr-defined]
            raise StoppedError

    with pytest.raises(StoppedError):
        pretrain.run(wanted, root, root / "stopped", "cpu", on_step=stop)
    again = pretrain.run(wanted, root, root / "stopped", "cpu")
    assert again.document["validation"] == whole.document["validation"]
    assert (root / "stopped/weights.safetensors").read_bytes() == (root / "whole/weights.safetensors").read_bytes()


def test_a_run_of_another_plan_is_not_continued(root: Path) -> None:
    pretrain.run(pretrain.read(plan(root)), root, root / "run", "cpu")
    other = {"network": "i3d", "preset": "compact-rgb", "options": {"clip_frames": 4, "size_px": 32, "centred": True}}
    with pytest.raises(InvalidOptions, match="backbone"):
        pretrain.run(pretrain.read(plan(root, backbone=other)), root, root / "run", "cpu")


def test_stored_flow_is_what_a_quantised_flow_stream_gives(root: Path) -> None:
    files = video_files(root / "videos", ["a"])
    store = FrameStore(files, root / "frames", FrameForm(10, 32, 20.0))
    store.prepare(workers=1)
    station = FlowStation(FlowRule("dis_fast", 20.0, quantised=True))
    with video.decode(files["a"], (FrameView("exact", (32, 32), "area"),), fps=10) as reader:
        served = [station.push(batch.pixels[0]) for batch in reader]
    served.append(station.finish())
    np.testing.assert_array_equal(displacements(store.frames("a"), 20.0), np.concatenate(served))


def test_a_flow_backbone_trains_as_well(root: Path) -> None:
    done = pretrain.run(pretrain.read(plan(root, "flow")), root, root / "run", "cpu")
    assert done.document["steps"] == 30


def test_a_missing_video_is_told(root: Path) -> None:
    (root / "videos" / "b.mp4").unlink()
    with pytest.raises(InvalidOptions, match=r"1 videos are not there: b$"):
        pretrain.run(pretrain.read(plan(root)), root, root / "run", "cpu")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fps": 0}, "fps"),
        ({"backbone": {"network": "x", "preset": "rgb"}}, "network 'x' is not known; accepted are i3d, tsn"),
        ({"backbone": {"network": "i3d", "preset": "x"}}, "no preset 'x'"),
        ({"backbone": {"network": "i3d", "preset": "rgb", "options": {"colour": 1}}}, "no option colour"),
        ({"training": {**TRAINING, "epochs": 0}}, "epochs"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_what_a_plan_cannot_mean_is_refused(root: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidOptions, match=told):
        pretrain.read(plan(root, **changes))


def test_trimmed_clips_need_the_labels_that_they_show(root: Path) -> None:
    wanted = pretrain.read(plan(root, training={**TRAINING, "trimmed": [1.0, 0.0]}))
    with pytest.raises(InvalidOptions, match=r"trimmed clips show bow, clap.*the annotations have bright"):
        pretrain.run(wanted, root, root / "run", "cpu")


@pytest.mark.parametrize("kind", ["rgb", "flow"])
def test_the_share_of_trimmed_clips_falls_from_first_to_last(kind: str) -> None:
    """Rendered clips need no store, so a job without videos can only give those."""
    network = I3d(I3dConfig(kind, len(LABELS), 0.05, clip_frames=4, size_px=32))  # type: ignore[arg-type]
    clips = object.__new__(Clips)
    clips.fps, clips.names, clips.num_classes = 10.0, LABELS, len(LABELS)
    job = ClipJob(network, clips, None, ClipRules(batch_size=8, trimmed=(1.0, 0.0), shift_px=2), 0, total_steps=10)
    batch = job.batch(0)
    assert batch.clips.shape == (8, 4, 32, 32, 3 if kind == "rgb" else 2)
    assert 0 < batch.wanted.sum() <= 8
    with pytest.raises(AttributeError):  # at the last step clips come from videos, which are not there
        job.batch(10)


def test_mirrored_flow_moves_the_other_way() -> None:
    """A clip that moves right is, seen in a mirror, one that moves left."""
    job = object.__new__(ClipJob)
    job._rules, job._clip_px = ClipRules(shift_px=0, brightness=0), 20.0
    clip = np.zeros((2, 3, 4, 2), np.float32)
    clip[:, :, 0] = (5.0, 1.0)  # the left edge moves right and down
    seen = {tuple(job._vary(clip, np.random.default_rng(seed))[0, 0, -1]) for seed in range(8)}
    assert seen == {(0.0, 0.0), (-5.0, 1.0)}
