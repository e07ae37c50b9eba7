"""What is refused before the first step, whose word it is how features were made, and which data a run goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models.manifest import Grid
from service.errors import InvalidOptions
from tests.training import footage
from training import feature_files, loop, run
from training import plan as plans
from training.feature_files import FeatureSettings

OURS = FeatureSettings("made", "1", "", (), Grid(fps="native", stride_frames=2, offset_frames=4), 8, channels=6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Videos 0 and 1 to train on, 2 to validate on and 3 to test on."""
    footage.write(tmp_path / "root")
    change(tmp_path / "root", video_2={"subset": "val"}, video_3={"subset": "test"})
    return tmp_path / "root"


def change(root: Path, **entries: dict[str, Any]) -> None:
    path = root / "annotations.json"
    document = json.loads(path.read_text())
    for video, values in entries.items():
        document["database"].setdefault(video, {"duration": 8.0, "annotations": []}).update(values)
    path.write_text(json.dumps(document))


def document(features: dict[str, Any] | None = None, **dataset: Any) -> dict[str, Any]:
    found = footage.plan(epochs=1, warmup_epochs=0, checkpoint_every_steps=1)
    found["dataset"] |= {"validation": "val", "test": "test", **dataset}
    if features is not None:
        found["features"] = {"folder": "features", **features}
    return found


def prepared(root: Path, features: dict[str, Any] | None = None, **dataset: Any) -> run.Prepared:
    return run.prepare(plans.parse(document(features, **dataset)), root)


def make_ours(root: Path) -> None:
    folder = root / "features"
    loaded = prepared(root).test.load
    feature_files.write_settings(folder, OURS)
    for number in range(4):
        found = loaded(f"video_{number}")
        grid = found.grid
        sequence = type(found)(found.values, None, type(grid)(np.arange(134) / 16, 134 / 16, 2.0, 4.0), 8)
        feature_files.write(folder / f"video_{number}.npz", sequence, OURS, source_bytes=1)
        (folder / f"video_{number}.npy").unlink()


def test_every_missing_feature_of_every_subset_is_told_before_training(root: Path) -> None:
    for number in (1, 2, 3):
        (root / "features" / f"video_{number}.npy").unlink()
    with pytest.raises(InvalidOptions, match="3 problems in ") as told:
        prepared(root)
    assert all(f"no feature file for 'video_{number}'" in str(told.value) for number in (1, 2, 3))
    assert "'video_0'" not in str(told.value)


def test_keys_that_a_file_of_all_videos_lacks_are_told_before_training(root: Path) -> None:
    with h5py.File(root / "all.h5", "w") as file:
        for number in (0, 1):
            file[f"v_video_{number}"] = footage.values(number)
    asked = document()
    asked["features"]["folder"] = "all.h5"
    with pytest.raises(InvalidOptions, match=r"2 problems in .*all\.h5") as told:
        run.prepare(plans.parse(asked), root)
    assert "no features of 'video_2': it holds neither video_2 nor v_video_2" in str(told.value)
    assert "no features of 'video_3'" in str(told.value)
    with h5py.File(root / "all.h5", "a") as file:
        for number in (2, 3):
            file[f"video_{number}"] = footage.values(number)
    found = run.prepare(plans.parse(asked), root)
    np.testing.assert_array_equal(found.test.load("video_3").values, footage.values(3))
    np.testing.assert_array_equal(found.test.load("video_1").values, footage.values(1))


def test_features_of_videos_that_nobody_needs_may_be_missing(root: Path) -> None:
    change(root, idle={"subset": "train"}, other={"subset": "spare"})
    (root / "features" / "video_2.npy").unlink()
    assert prepared(root, validation=None).test.ground_truth.videos == ("video_3",)


def test_a_missing_frame_rate_is_told_before_training(root: Path) -> None:
    rule = {"stride_frames": 1, "offset_frames": 0.5, "clip_frames": 1}
    change(root, video_0={"fps": 8}, video_1={"fps": 8}, video_2={"fps": 8})
    with pytest.raises(InvalidOptions, match=r"no frame rate of video_3; features\.fps"):
        prepared(root, rule)


def test_a_training_subset_without_an_action_is_told(root: Path) -> None:
    change(root, video_0={"annotations": []}, video_1={"annotations": []})
    with pytest.raises(InvalidOptions, match="no video of the training subset 'train' has an action"):
        prepared(root)


def test_our_own_features_go_before_the_rule_of_a_preset(root: Path) -> None:
    make_ours(root)
    preset = plans.parse({"preset": "actionformer/charades", **document({})}).features
    assert preset.rule is not None
    assert preset.rule.stride_frames == 4
    loaded = run.prepare(plans.parse({"preset": "actionformer/charades", **document({})}), root).test.load("video_3")
    assert (loaded.grid.stride_frames, loaded.clip_span_frames) == (2, 8)


def test_a_plan_that_contradicts_our_own_features_is_told_which_keys_to_leave_out(root: Path) -> None:
    make_ours(root)
    with pytest.raises(InvalidOptions, match="leave stride_frames, offset_frames, clip_frames, fps out of the plan"):
        prepared(root)
    with pytest.raises(InvalidOptions, match="leave array out of the plan"):
        prepared(root, {"array": "x"})


def test_features_that_nobody_says_anything_about_are_told(root: Path) -> None:
    with pytest.raises(InvalidOptions, match=r"holds no features\.json.* features\.stride_frames, offset_frames and"):
        prepared(root, {})


def test_a_run_is_judged_on_its_test_subset_and_says_so(root: Path, tmp_path: Path) -> None:
    wanted = plans.parse(document())
    done = run.run(wanted, root, tmp_path / "run", "cpu")
    assert done.document["judged_on"] == "test"
    assert json.loads((tmp_path / "run" / "predictions.json").read_text())["results"].keys() == {"video_3"}
    assert run.run(plans.parse(document(test=None)), root, tmp_path / "other", "cpu").document["judged_on"] == "val"


def test_weights_of_a_run_are_judged_again_by_another_plan_and_left_as_they_are(root: Path, tmp_path: Path) -> None:
    first = run.run(plans.parse(document()), root, tmp_path / "run")
    weights = tmp_path / "run" / loop.WEIGHTS
    before = weights.read_bytes()
    again = run.judge_again(plans.parse(document()), root, weights, tmp_path / "again")
    assert again.document["mAP"] == first.document["mAP"]
    assert "steps" not in again.document
    other = run.judge_again(plans.parse({**document(), "tious": [0.1]}), root, weights, tmp_path / "other")
    assert list(other.document["mAP"]) == ["0.1"]
    assert weights.read_bytes() == before


def test_a_finished_run_tells_its_own_seconds_when_it_is_run_again(root: Path, tmp_path: Path) -> None:
    first = run.run(plans.parse(document()), root, tmp_path / "run", "cpu").document
    again = run.run(plans.parse(document()), root, tmp_path / "run", "cpu").document
    assert again["seconds"] == first["seconds"] > 0


@pytest.mark.parametrize("what", ["annotations", "features"])
def test_a_run_does_not_go_on_with_other_data(root: Path, tmp_path: Path, what: str) -> None:
    wanted = plans.parse(document())
    run.run(wanted, root, tmp_path / "run", "cpu")
    if what == "annotations":
        change(root, video_0={"annotations": [{"label": "run", "segment": [1.0, 3.0]}]})
    else:
        np.save(root / "features" / "video_3.npy", footage.values(3)[:-4])
    with pytest.raises(InvalidOptions, match=rf"began on other data \({what} changed since\); --fresh starts anew"):
        run.run(wanted, root, tmp_path / "run", "cpu")
    run.run(wanted, root, tmp_path / "run", "cpu", fresh=True)


def test_a_run_does_not_notice_data_that_it_does_not_use(root: Path) -> None:
    before = prepared(root).inputs
    change(root, spare={"subset": "spare"})
    np.save(root / "features" / "spare.npy", footage.values(3))
    assert prepared(root).inputs == before


def test_our_own_features_made_otherwise_are_other_data(root: Path) -> None:
    make_ours(root)
    before = prepared(root, {}).inputs
    for path in (root / "features").glob("*.npz"):
        stored = feature_files.load(path, OURS)
        feature_files.write(path, stored, otherwise(), source_bytes=1)
    feature_files.write_settings(root / "features", otherwise())
    after = prepared(root, {}).inputs
    assert after["annotations"] == before["annotations"]
    assert after["features"] != before["features"]


def otherwise() -> FeatureSettings:
    grid = Grid(fps="native", stride_frames=2, offset_frames=3)
    return FeatureSettings("made", "1", "", (), grid, 8, channels=6)


def test_a_run_goes_on_with_other_savings(root: Path, tmp_path: Path) -> None:
    run.run(plans.parse(document()), root, tmp_path / "run", "cpu")
    again = document()
    again["training"] |= {"keep": 2, "checkpoint_every_steps": 5}
    assert run.run(plans.parse(again), root, tmp_path / "run", "cpu").document["resumed_at_step"] == 1
