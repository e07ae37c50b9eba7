"""A classifier learns from labels of videos alone, goes on where it was killed, and names a detector's proposals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from exporters import export as exports
from exporters import recipe as recipes
from models import bundle as bundles
from service.cli import app
from service.errors import InvalidOptions
from tests.training import footage
from training import classifier_run, run
from training import plan as plans
from training.classifier_job import classification_loss
from training.evaluation import video_scores

RULES = {"stride_frames": 1, "offset_frames": 0.5, "clip_frames": 1, "fps": footage.FPS}
OPTIONS = {"hidden": 16, "dropout": 0.0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    footage.write(tmp_path / "root", videos=6)
    return tmp_path / "root"


def document(preset: str = "many", network: str = "attention", **training: Any) -> dict[str, Any]:
    return {
        "name": "names",
        "dataset": {"path": "annotations.json", "train": "train", "validation": "train"},
        "features": {"folder": "features", **RULES},
        "classifier": {"network": network, "preset": preset, "options": OPTIONS},
        "training": {
            "epochs": 60,
            "learning_rate": 2e-2,
            "batch_size": 6,
            "snippets": 48,
            "ema": None,
            "validate_every_epochs": 20,
            "checkpoint_every_steps": 7,
            **training,
        },
    }


def write(root: Path, content: dict[str, Any]) -> Path:
    path = root / "plan.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("network", "preset"), [("attention", "many"), ("average", "many")])
def test_it_learns_which_actions_a_video_holds(root: Path, tmp_path: Path, network: str, preset: str) -> None:
    path = write(root, document(preset, network))
    assert classifier_run.asks_for_classifier(path)
    done = classifier_run.run(classifier_run.read(path), root, tmp_path / "run")
    assert done.labels == footage.LABELS
    assert done.document["validation"]["average"] > 0.95  # by chance about 0.67
    assert json.loads((tmp_path / "run" / "labels.json").read_text()) == list(footage.LABELS)


def test_a_run_that_was_stopped_ends_with_the_same_numbers(root: Path, tmp_path: Path) -> None:
    whole = classifier_run.read(write(root, document(epochs=9)))
    classifier_run.run(whole, root, tmp_path / "whole")

    def stop(step: Any) -> None:
        if step.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier_run.run(whole, root, tmp_path / "stopped", on_step=stop)
    classifier_run.run(whole, root, tmp_path / "stopped")
    first, second = (tmp_path / name / "weights.safetensors" for name in ("whole", "stopped"))
    assert first.read_bytes() == second.read_bytes()


def test_the_command_trains_a_classifier_and_a_recipe_takes_it(root: Path, tmp_path: Path) -> None:
    path = write(root, document(epochs=3, validate_every_epochs=3))
    told = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert "average" in told.output
    wanted = {
        "name": "named",
        "licence": "Apache-2.0",
        "provenance": "made by the tests",
        "labels": footage.LABELS,
        "streams": [
            {
                "name": "rgb",
                "network": "i3d",
                "preset": "compact-rgb",
                "options": {"width": 0.0625, "size_px": 32, "clip_frames": 8},
                "resize": {"mode": "exact", "size_px": [32, 32]},
            }
        ],
        "grid": {"stride_frames": 4},
        "detector": {
            "network": "gtad",
            "preset": "compact",
            "options": {
                "channels": 8,
                "pooled_channels": 8,
                "head_channels": 8,
                "graph_width": 8,
                "length": 16,
                "max_duration": 8,
            },
        },
        "classifier": {
            "network": "attention",
            "preset": "many",
            "options": OPTIONS,
            "fusion": {"rule": "sqrt", "classes": 2},
        },
    }
    made = exports.export(recipes.Recipe.model_validate_json(json.dumps(wanted)), tmp_path / "bundle", origin=tmp_path)
    manifest = bundles.read(made.folder).manifest
    assert manifest.classifier is not None
    assert manifest.classifier.graph == "classifier.onnx"
    assert [preset.fusion.rule for preset in manifest.presets] == ["sqrt", "sqrt"]
    assert manifest.labels == footage.LABELS
    assert "classifier.video_scores" in manifest.parity
    assert manifest.parity["segments_compared"] > 0


def test_labels_of_a_video_share_one_between_them() -> None:
    logarithms = torch.tensor([[0.5, 0.25, 0.25]]).log()
    both = classification_loss(logarithms, torch.tensor([[1.0, 1.0, 0.0]]), independent=False)
    assert both.item() == pytest.approx(-(np.log(0.5) + np.log(0.25)) / 2)
    assert float(classification_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), independent=True)) == pytest.approx(
        np.log(2)
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classifier": {"network": "other", "preset": "many"}}, "accepted are attention, average"),
        ({"classifier": {"network": "average", "preset": "other"}}, "accepted are one, many"),
        ({"classifier": {"network": "average", "preset": "one", "options": {"width": 1}}}, "no option width"),
        ({"protocol": "other"}, "protocol 'other' is not known"),
    ],
)
def test_what_cannot_be_trained_is_told(root: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOptions, match=told):
        classifier_run.read(write(root, document() | changes))


@pytest.mark.parametrize(("name", "value", "there"), [("num_classes", 7, 3), ("input_channels", 7, 6)])
def test_a_classifier_of_other_data_is_told_before_training(
    root: Path, tmp_path: Path, name: str, value: int, there: int
) -> None:
    asked = document()
    asked["classifier"]["options"] = {**asked["classifier"].get("options", {}), name: value}
    plan = classifier_run.read(write(root, asked))
    with pytest.raises(InvalidOptions, match=f"{name} is {value}; the data has {there}"):
        classifier_run.run(plan, root, tmp_path)


def agnostic(root: Path, **scores: Any) -> plans.Plan:
    asked = footage.plan(epochs=1, warmup_epochs=0, validate_every_epochs=0)
    asked["detector"] = {"network": "gtad", "preset": "compact", "options": {
        "channels": 8, "pooled_channels": 8, "head_channels": 8, "graph_width": 8, "length": 32, "max_duration": 16,
        "stem_groups": 2,
    }}  # fmt: skip
    asked["loss"] = {}
    asked["video_scores"] = {"format": "cuhk", "path": "scores.json", **scores}
    return plans.parse(asked)


def write_scores(root: Path, videos: int = 6) -> None:
    """A video's own labels and nothing else are likely."""
    results = {
        f"video_{number}": [
            0.9 if label in {action["label"] for action in footage.actions(number)} else 0.01
            for label in footage.LABELS
        ]
        for number in range(videos)
    }
    (root / "scores.json").write_text(json.dumps({"results": results, "class": footage.LABELS}))


def test_a_run_is_judged_under_names_that_come_with_the_data(root: Path, tmp_path: Path) -> None:
    write_scores(root)
    done = run.run(agnostic(root), root, tmp_path / "run")
    predictions = json.loads((tmp_path / "run" / "predictions.json").read_text())["results"]
    for number in range(6):
        own = {action["label"] for action in footage.actions(number)}
        assert {segment["label"] for segment in predictions[f"video_{number}"]} == own
    assert set(done.document["by_class"]) == set(footage.LABELS)


def test_video_scores_that_do_not_fit_are_told_before_training(root: Path) -> None:
    write_scores(root, videos=4)
    with pytest.raises(InvalidOptions, match="no scores of video_4, video_5, which are judged"):
        run.prepare(agnostic(root), root)
    write_scores(root)
    asked = footage.plan()
    asked["video_scores"] = {"format": "cuhk", "path": "scores.json"}
    with pytest.raises(InvalidOptions, match="actionformer tells 3 classes apart itself"):
        run.prepare(plans.parse(asked), root)
    with pytest.raises(InvalidOptions, match="accepted are cuhk, untrimmednet"):
        agnostic(root, format="other")


def test_scores_of_all_videos_are_written_in_the_form_that_plans_take(root: Path) -> None:
    wanted = classifier_run.ClassifierPlan.model_validate_json(json.dumps(document()))
    classifier_run.run(wanted, root, root / "names")
    found = video_scores.read("cuhk", root / "names" / run.VIDEO_SCORES)
    assert found.labels == tuple(sorted(footage.LABELS))
    for number in range(6):
        scores = found.of(f"video_{number}")
        assert scores is not None
        there = {action["label"] for action in footage.actions(number)}
        assert {found.labels[place] for place in np.argsort(-scores)[: len(there)]} == there
