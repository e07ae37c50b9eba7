"""Training plans: presets that fit the catalogue, and every problem of a plan told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.catalog import DETECTORS
from service.errors import InvalidOptions
from tests.training import footage
from training import plan as plans
from training import presets

OWN = {
    "name": "mine",
    "dataset": {"path": "a.json"},
    "features": {"folder": "features"},
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_becomes_a_plan_with_what_is_a_users(name: str) -> None:
    found = plans.parse({"preset": name, **OWN})
    assert found.detector.network == name.split("/", maxsplit=1)[0]
    losses = found.detector.entry.losses[found.loss_preset]()
    network = plans.configured(
        found.detector.entry.presets[found.detector.preset](), found.detector.options, {}, "network"
    )
    found.detector.entry.loss(losses, network)  # refuses ranges that do not fit the levels


def test_every_detector_of_the_catalogue_has_a_preset_for_our_own_data() -> None:
    assert {f"{name}/marionette" for name in DETECTORS} <= presets.PRESETS.keys()


def test_published_settings_are_those_of_the_papers() -> None:
    thumos = plans.parse({"preset": "actionformer/thumos14", **OWN}).training
    assert (thumos.learning_rate, thumos.epochs, thumos.warmup_epochs, thumos.batch_size) == (1e-4, 30, 5, 2)
    assert (thumos.weight_decay, thumos.ema, thumos.clip_norm, thumos.trunc_thresh) == (0.05, 0.999, 1.0, 0.5)
    activitynet = plans.parse({"preset": "actionformer/activitynet", **OWN}).training
    assert (activitynet.learning_rate, activitynet.epochs, activitynet.batch_size) == (1e-3, 10, 16)


def test_settings_of_tadtr_are_those_of_its_authors() -> None:
    thumos = plans.parse({"preset": "tadtr/thumos14", **OWN}).training
    assert (thumos.learning_rate, thumos.epochs, thumos.warmup_epochs, thumos.batch_size) == (2e-4, 16, 0, 16)
    assert (thumos.schedule, thumos.milestones, thumos.gamma) == ("steps", (14,), 0.1)
    assert (thumos.weight_decay, thumos.ema, thumos.clip_norm, thumos.trunc_thresh) == (1e-4, None, 0.1, 0.75)
    assert (thumos.slow_parameters, thumos.slow_factor) == (("reference_points", "sampling_offsets"), 0.1)
    entry = DETECTORS["tadtr"]
    with torch.device("meta"):
        names = [name for name, _ in entry.network(entry.presets["thumos"]()).named_parameters()]
    assert all(any(part in name for name in names) for part in thumos.slow_parameters)


def test_what_a_plan_says_itself_goes_before_its_preset() -> None:
    found = plans.parse(
        {"preset": "actionformer/thumos14", **OWN, "training": {"epochs": 3}}, {"seed": 5, "learning_rate": 0.01}
    )
    assert (found.training.epochs, found.training.warmup_epochs, found.training.seed) == (3, 5, 5)
    assert found.training.learning_rate == 0.01
    assert (found.features.folder, found.features.stride_frames) == ("features", 4)


def test_how_features_were_made_is_the_word_of_the_preset_or_of_the_plan() -> None:
    own = {**OWN, "preset": "actionformer/thumos14"}
    assert plans.parse(own).features.own_rule == ()
    changed = plans.parse({**own, "features": {"folder": "features", "fps": 30}}).features
    assert changed.own_rule == ("stride_frames", "offset_frames", "clip_frames", "fps")
    assert changed.rule is not None
    assert (changed.rule.stride_frames, changed.rule.fps) == (4, 30)
    assert plans.parse(footage.plan()).features.own_rule == ("stride_frames", "offset_frames", "clip_frames", "fps")
    again = plans.parse(json.loads(plans.parse(own).model_dump_json()))
    assert again == plans.parse(own)
    assert again.features.own_rule == ()
    assert plans.parse({**OWN, "preset": "actionformer/marionette"}).features.rule_of is None


def test_a_plan_that_leaves_nothing_to_judge_on_is_refused() -> None:
    document = footage.plan()
    document["dataset"] |= {"validation": None, "test": None}
    with pytest.raises(InvalidOptions, match=r"validation and test are both null.*that of training, 'train'"):
        plans.parse(document)
    document["dataset"]["test"] = "train"
    assert plans.parse(document).dataset.judged_on == "train"


def test_all_problems_are_told_at_once() -> None:
    document = footage.plan(epochs=0, learning_rate="fast", colour="red")
    document["detector"] = {"network": "actionformr", "preset": "compact"}
    document["dataset"].pop("train")
    document["features"].pop("clip_frames")
    with pytest.raises(InvalidOptions) as told:
        plans.parse(document)
    for problem in (
        *("training.epochs", "training.learning_rate", "training.colour: unknown key", "dataset.train: missing key"),
        *("'actionformr' is not known; accepted are actionformer", "offset_frames and clip_frames go together"),
    ):
        assert problem in str(told.value)


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("detector", {"network": "actionformer", "preset": "huge"}, "no preset 'huge'; accepted are thumos"),
        (
            "detector",
            {"network": "actionformer", "preset": "compact", "options": {"width": 3}},
            "no option width; accepted are input_channels",
        ),
        (
            "detector",
            {"network": "actionformer", "preset": "compact", "options": {"heads": "four"}},
            "heads: Input should be a valid integer",
        ),
        (
            "detector",
            {"network": "actionformer", "preset": "compact", "rules": "huge"},
            "no rules 'huge'; accepted are thumos",
        ),
        ("loss", {"preset": "huge"}, "no loss 'huge'; accepted are thumos"),
        ("loss", {"options": {"alpha": 1}}, "loss has no option alpha"),
        ("dataset", {"path": "a", "train": "t", "format": "x"}, "format 'x' is not known; accepted are thumos14"),
        ("protocol", "thumos", "protocol 'thumos' is not known; accepted are thumos14"),
        ("tious", [], "tious"),
    ],
)
def test_names_that_mean_nothing_are_told_with_those_that_do(part: str, value: object, told: str) -> None:
    with pytest.raises(InvalidOptions, match=told):
        plans.parse({**footage.plan(), part: value})


def test_an_unknown_preset_is_told() -> None:
    with pytest.raises(InvalidOptions, match="preset 'x' is not known; accepted are actionformer/thumos14"):
        plans.parse({"preset": "x", **OWN})


def test_a_plan_without_its_files_is_told(tmp_path: Path) -> None:
    path = footage.write_plan(tmp_path)
    with pytest.raises(InvalidOptions, match=r"dataset\.path: .*does not exist; features\.folder: .*does not exist"):
        plans.read(path)


@pytest.mark.parametrize(("content", "told"), [("{", "not JSON"), ("[]", "a plan is a JSON object, not list")])
def test_what_is_no_plan_is_told(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(InvalidOptions, match=told):
        plans.read(path)
    with pytest.raises(InvalidOptions, match="No such file"):
        plans.read(tmp_path / "none.json")


def test_a_plan_survives_being_written_and_read() -> None:
    found = plans.parse(footage.plan())
    assert plans.parse(json.loads(found.model_dump_json())) == found
