"""CMCS's network and localisation against the authors' numbers, and its own laws."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters import published
from models.detectors.cmcs import Cmcs, CmcsOutputs, RunOutputs
from models.detectors.cmcs_config import CmcsConfig
from models.detectors.detector import Activations
from service.errors import InvalidOptions, WeightsMismatch
from tests.support import golden, networks
from tests.support.golden import GoldenSet

FORWARD = {"atol": 1e-5, "rtol": 1e-4}
MODALITIES = ("rgb", "flow", "both")
# Sets with trained weights stay outside the project; they are compared where they are.
ELSEWHERE = sorted((Path(os.environ.get("TAL_GOLDEN", "/nonexistent")) / "cmcs").glob("trained_*"))
SETS = [*sorted((golden.ROOT / "cmcs").glob("*")), *ELSEWHERE]

each_set = pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)


def known(folder: Path) -> GoldenSet:
    return golden.read(str(folder))


def modalities(numbers: GoldenSet) -> tuple[str, ...]:
    return tuple(name for name in MODALITIES if any(key.startswith(f"{name}/") for key in numbers.state))


def network(numbers: GoldenSet, modality: str) -> nn.Module:
    layout, kept = (
        ("official-late-fusion", ("rgb/", "flow/")) if modality == "late-fusion" else ("official", (f"{modality}/",))
    )
    state = {
        key if modality == "late-fusion" else key.removeprefix(f"{modality}/"): value
        for key, value in numbers.state.items()
        if key.startswith(kept)
    }
    return published.load("cmcs", layout, state, {"model_params": numbers.config["model_params"]})


def features(numbers: GoldenSet, where: str, modality: str) -> Tensor:
    """(crops, C, T)."""
    kinds = (modality,) if modality in ("rgb", "flow") else ("rgb", "flow")
    values = np.concatenate([numbers.inputs[f"{where}/{kind}"] for kind in kinds], axis=2)
    return torch.from_numpy(values).transpose(1, 2)


def seen(made: nn.Module, values: Tensor) -> CmcsOutputs:
    with torch.inference_mode():
        outputs: CmcsOutputs = made(values, torch.ones(len(values), values.shape[2], dtype=torch.bool))
    return outputs


def over_crops(outputs: CmcsOutputs) -> CmcsOutputs:
    """Published results are those of the mean over crops of a picture."""
    runs = [RunOutputs(*(part.mean(dim=0, keepdim=True) for part in run)) for run in outputs.runs]
    return CmcsOutputs(tuple(runs), outputs.mask[:1])


def videos(numbers: GoldenSet) -> Iterator[str]:
    count = sum(key.endswith("/frame_cnt") for key in numbers.inputs)
    return (f"video/{number}" for number in range(count))


@each_set
def test_every_network_equals_the_published_one(folder: Path) -> None:
    numbers = known(folder)
    for modality in modalities(numbers):
        made = network(numbers, modality)
        for video in videos(numbers):
            (run,) = seen(made, features(numbers, video, modality)).runs
            expected = {key: numbers.outputs[f"{video}/{modality}/{key}"] for key in ("avg_score", "global_score")}
            branches = numbers.outputs[f"{video}/{modality}/branch_scores"].swapaxes(0, 1)
            np.testing.assert_allclose(run.branches, branches, **FORWARD)
            np.testing.assert_allclose(run.branches.mean(dim=1), expected["avg_score"], **FORWARD)
            np.testing.assert_allclose(run.video, expected["global_score"], **FORWARD)
            attention = numbers.outputs[f"{video}/{modality}/att_weight"][..., 0]
            np.testing.assert_allclose(run.attention, attention, **FORWARD)


@each_set
def test_late_fusion_is_the_mean_of_what_two_networks_say(folder: Path) -> None:
    numbers = known(folder)
    made = network(numbers, "late-fusion")
    assert isinstance(made, Cmcs)
    for video in videos(numbers):
        found = made.decode(over_crops(seen(made, features(numbers, video, "late-fusion"))))
        stored = {
            key: torch.from_numpy(numbers.outputs[f"{video}/late-fusion/crop_mean/{key}"])
            for key in ("avg_score", "global_score")
        }
        classes = made.config.num_classes
        np.testing.assert_allclose(found.curves[0], stored["avg_score"].softmax(dim=1)[:, :classes], **FORWARD)
        np.testing.assert_allclose(found.video_scores[0], stored["global_score"].softmax(dim=0)[:classes], **FORWARD)


def decoded(config: CmcsConfig, mask: Tensor) -> Activations:
    made = networks.scattered(Cmcs, config)
    torch.manual_seed(0)
    with torch.inference_mode():
        found: Activations = made.decode(made(torch.randn(len(mask), sum(config.input_channels), mask.shape[1]), mask))
    return found


def test_the_background_never_leaves_the_graph_and_takes_its_share() -> None:
    mask = torch.ones(2, 9, dtype=torch.bool)
    found = decoded(networks.CMCS, mask)
    assert found.curves.shape == (2, 9, 3)
    assert (found.curves.sum(dim=2) < 1).all()
    assert (found.video_scores.sum(dim=1) < 1).all()
    without = decoded(replace(networks.CMCS, background=False), mask)
    torch.testing.assert_close(without.curves.sum(dim=2), torch.ones(2, 9))


def test_attention_of_a_video_sums_to_one_over_its_real_steps() -> None:
    mask = torch.arange(9) < torch.tensor([[9], [4], [1], [0]])
    for pooling in ("attention", "average"):
        made = networks.scattered(Cmcs, replace(networks.CMCS, pooling=pooling))
        with torch.inference_mode():
            (run,) = made(torch.randn(4, 6, 9), mask).runs
        torch.testing.assert_close(run.attention.sum(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
        assert not run.attention[~mask].any()
    torch.testing.assert_close(run.attention[1, :4], torch.full((4,), 0.25))


def test_drop_out_silences_a_channel_all_through_a_video() -> None:
    made = Cmcs(replace(networks.CMCS, shared_layers=((6, 1),)))
    shared = made.networks[0].shared.convs[0]
    with torch.no_grad():
        shared.weight.copy_(torch.eye(6)[:, :, None])
        shared.bias.zero_()
    kept: list[Tensor] = []
    made.networks[0].shared.register_forward_hook(lambda _module, _given, answer: kept.append(answer))
    made.train()(torch.ones(40, 6, 7), torch.ones(40, 7, dtype=torch.bool))
    silent = kept[0] == 0
    assert torch.equal(silent.any(dim=2), silent.all(dim=2))
    assert 0.35 < silent.float().mean() < 0.65


def test_networks_of_late_fusion_see_their_own_features_only() -> None:
    made = networks.detector("cmcs", "late fusion")
    values, mask = torch.randn(1, 6, 9), torch.ones(1, 9, dtype=torch.bool)
    other = values.clone()
    other[:, 4:] += 1
    with torch.inference_mode():
        first, second = made(values, mask).runs, made(other, mask).runs
    assert torch.equal(first[0].video, second[0].video)
    assert not torch.allclose(first[1].video, second[1].video)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_channels": ()}, "input_channels is empty"),
        ({"num_classes": 1, "background": False}, "background is needed"),
        ({"branches": 0}, "branches is 0"),
        ({"branch_layers": ()}, "branch_layers is empty"),
        ({"branch_layers": ((16, 2),)}, "kernel is 2; an odd number"),
        ({"shared_layers": ((0, 1),)}, "channels is 0"),
        ({"attention_layers": ((4,),)}, r"attention_layers holds \(4,\)"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(networks.CMCS, **changes)


def test_published_weights_that_do_not_fit_are_told_by_their_own_names() -> None:
    numbers = known(golden.ROOT / "cmcs" / "random_i3d")
    params = {"model_params": numbers.config["model_params"]}
    state = {key.removeprefix("rgb/"): value for key, value in numbers.state.items() if key.startswith("rgb/")}
    with pytest.raises(WeightsMismatch, match=r"cls_heads\.3\.bias: expected \(6,\), found nothing"):
        published.load("cmcs", "official", {k: v for k, v in state.items() if k != "cls_heads.3.bias"}, params)
    with pytest.raises(InvalidOptions, match=r"rgb/cls_heads\.0\.weight"):
        published.load("cmcs", "official-late-fusion", state, params)
    with pytest.raises(InvalidOptions, match="unknown keys colour"):
        published.load("cmcs", "official", state, {**params, "colour": "blue"})
    whole = {**params, "dataset_name": "thumos14", "with_bg": False, "detect_params": {}}
    made = published.load("cmcs", "official", state, whole)
    assert isinstance(made, Cmcs)
    assert (made.config.num_classes, made.config.outputs) == (6, 6)
