"""What every network of the catalogue promises, whichever paper it comes from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from models.catalog import BACKBONES, DETECTORS
from tests.support import networks

BACKBONE_CASES = [(name, variant) for name, variants in networks.SMALL_BACKBONES.items() for variant in variants]
DETECTOR_CASES = [(name, variant) for name, variants in networks.SMALL_DETECTORS.items() for variant in variants]
CANDIDATE_CASES = [case for case in DETECTOR_CASES if DETECTORS[case[0]].output_kind == "candidates"]
ACTIVATION_CASES = [case for case in DETECTOR_CASES if DETECTORS[case[0]].output_kind == "activations"]

each_backbone = pytest.mark.parametrize(("name", "variant"), BACKBONE_CASES)
each_detector = pytest.mark.parametrize(("name", "variant"), DETECTOR_CASES)
each_that_gives_candidates = pytest.mark.parametrize(("name", "variant"), CANDIDATE_CASES)
each_that_gives_activations = pytest.mark.parametrize(("name", "variant"), ACTIVATION_CASES)


def test_every_entry_takes_part_in_this_suite() -> None:
    assert set(networks.SMALL_BACKBONES) == set(BACKBONES)
    assert set(networks.SMALL_DETECTORS) == set(DETECTORS) == set(networks.LOSSES)


@pytest.mark.parametrize("entry", [*BACKBONES.values(), *DETECTORS.values()], ids=[*BACKBONES, *DETECTORS])
def test_every_preset_makes_a_network(entry: Any) -> None:
    for preset in entry.presets.values():
        with torch.device("meta"):  # full-size, without its memory
            entry.network(preset())


@pytest.mark.parametrize("entry", DETECTORS.values(), ids=DETECTORS)
def test_every_preset_of_a_detector_has_its_loss_and_its_rules(entry: Any) -> None:
    assert set(entry.presets) == set(entry.losses) == set(entry.rules)
    for name, preset in entry.presets.items():
        config = preset()
        entry.loss(entry.losses[name](), config)
        entry.windowing(config.lengths)


@each_backbone
def test_a_backbone_gives_features_and_scores_for_each_clip(name: str, variant: str) -> None:
    network = networks.backbone(name, variant)
    with torch.inference_mode():
        together = network(networks.clips(network, 3))
        alone = [network(clip[None]) for clip in networks.clips(network, 3)]
    assert together.features.shape == (3, network.feature_channels)
    assert together.scores.shape == (3, network.config.num_classes)
    torch.testing.assert_close(together.features, torch.cat([one.features for one in alone]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.scores, torch.cat([one.scores for one in alone]), rtol=1e-4, atol=1e-5)
    assert together.features.std(dim=0).max() > 0


@each_backbone
def test_every_weight_of_a_backbone_learns(name: str, variant: str) -> None:
    network = networks.backbone(name, variant)
    network(networks.clips(network, 2)).scores.square().sum().backward()
    missed = [key for key, weight in network.named_parameters() if weight.grad is None]
    assert missed == []


def features_and_mask(network: Any, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = networks.window_length(network)
    torch.manual_seed(1)
    real = torch.tensor([length, length - 3, 1, 0][:batch])
    return torch.randn(batch, sum(network.config.input_channels), length), torch.arange(length) < real[:, None]


@each_that_gives_candidates
def test_a_batch_of_windows_gives_what_its_members_give_alone(name: str, variant: str) -> None:
    network = networks.detector(name, variant)
    features, mask = features_and_mask(network, 4)
    with torch.inference_mode():
        together = network.decode(network(features, mask))
        for index in range(4):
            alone = network.decode(network(features[index : index + 1], mask[index : index + 1]))
            torch.testing.assert_close(together.spans[index], alone.spans[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(together.scores[index], alone.scores[0], rtol=1e-4, atol=1e-5)
            assert torch.equal(together.groups, alone.groups)
    batch, count, classes = together.scores.shape
    assert (batch, classes) == (4, network.config.num_classes)
    assert together.spans.shape == (4, count, 2)
    assert together.groups.shape == (count,)
    assert ((together.scores >= 0) & (together.scores <= 1)).all()
    assert not together.scores[3].any()  # the window without a snippet


@each_that_gives_activations
def test_curves_of_a_batch_of_windows_are_those_of_its_members_alone(name: str, variant: str) -> None:
    network = networks.detector(name, variant)
    features, mask = features_and_mask(network, 4)
    with torch.inference_mode():
        together = network.decode(network(features, mask))
        for index in range(4):
            alone = network.decode(network(features[index : index + 1], mask[index : index + 1]))
            torch.testing.assert_close(together.curves[index], alone.curves[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together.video_scores[index], alone.video_scores[0], rtol=1e-4, atol=1e-5)
    assert together.curves.shape == (*mask.shape, network.config.num_classes)
    assert together.video_scores.shape == (4, network.config.num_classes)
    for values in together:
        assert ((values >= 0) & (values <= 1)).all()
        assert not values[3].any()  # the window without a snippet
    assert not together.curves[~mask].any()
    assert together.curves[0].std(dim=0).min() > 0


@each_detector
def test_what_stands_in_padded_places_changes_nothing(name: str, variant: str) -> None:
    network = networks.detector(name, variant)
    features, mask = features_and_mask(network, 3)
    noisy = torch.where(mask[:, None], features, 1e3)
    with torch.inference_mode():
        for clean, other in zip(
            network.decode(network(features, mask)), network.decode(network(noisy, mask)), strict=True
        ):
            assert torch.equal(clean, other)


@each_detector
def test_every_weight_of_a_detector_learns_from_its_loss(name: str, variant: str) -> None:
    network = networks.detector(name, variant)
    features, mask = features_and_mask(network, 1)
    loss = DETECTORS[name].loss(networks.LOSSES[name], network.config)
    targets = [networks.annotated(features.shape[2], network.config.num_classes)]
    loss(network(features, mask), targets).total.backward()
    # A bias that shifts alike all that softmax compares is undone by it.
    idle = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [key for key in idle if not key.endswith(("attn.key.bias", "attention.linear.bias"))] == []


def test_every_entry_has_a_page_that_names_its_presets() -> None:
    pages = Path(__file__).parents[2] / "docs" / "models"
    for name, entry in {**BACKBONES, **DETECTORS}.items():
        text = (pages / f"{name}.md").read_text()
        missing = [preset for preset in entry.presets if f"`{preset}`" not in text]
        assert missing == [], name


def test_every_loss_is_out_of_bounds_for_exporters() -> None:
    root = Path(__file__).parents[2]
    rules = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    forbidden = next(rule["forbidden_modules"] for rule in rules if rule["name"].startswith("Losses are for training"))
    losses = {f"models.detectors.{path.stem}" for path in (root / "models" / "detectors").glob("*_loss.py")}
    assert set(forbidden) == losses
