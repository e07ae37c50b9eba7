"""ActionFormer's loss: assignment, terms, gradients and running normaliser against the published numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from exporters import published
from models.detectors import actionformer_loss
from models.detectors.actionformer import ActionFormer, ActionFormerOutputs
from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.actionformer_loss import ActionFormerLoss, ActionFormerLossConfig, diou, focal, giou
from models.detectors.detector import Targets
from tests.support import golden
from tests.support.golden import GoldenSet
from tests.support.learning import assert_finds, learn

SETS = ["local", "anet", "multi"]
LOSSES = {"rtol": 1e-5, "atol": 0}


def loss_of(network: ActionFormer, ranges: list, training: dict) -> ActionFormerLoss:
    weight = training["loss_weight"]
    config = ActionFormerLossConfig(
        ranges=tuple((float(low), float(high)) for low, high in ranges),
        center_radius=training["center_sample_radius"] if training["center_sample"] == "radius" else None,
        regression_weight=weight if weight > 0 else None,
        label_smoothing=training["label_smoothing"],
        initial_positives=training["init_loss_norm"],
    )
    return ActionFormerLoss(config, network.config)


def training_batch(known: GoldenSet) -> tuple[Tensor, Tensor, list[Targets]]:
    length, videos = known.config["model"]["max_seq_len"], range(len(known.config["train_lens"]))
    features = torch.zeros(len(videos), known.inputs["train/0/feats"].shape[0], length)
    mask = torch.zeros(len(videos), length, dtype=torch.bool)
    for video in videos:
        values = torch.from_numpy(known.inputs[f"train/{video}/feats"])
        features[video, :, : values.shape[1]] = values
        mask[video, : values.shape[1]] = True
    targets = [
        Targets(*(torch.from_numpy(known.inputs[f"train/{video}/{part}"]) for part in ("segments", "labels")))
        for video in videos
    ]
    return features, mask, targets


def trained_on(name: str) -> tuple[GoldenSet, ActionFormer, ActionFormerLoss, ActionFormerOutputs, list[Targets]]:
    """The network in training mode, with the stochastic parts off, as the numbers were made."""
    known = golden.read(f"actionformer/{name}")
    network = published.load("actionformer", "official", known.state, known.config["model"])
    assert isinstance(network, ActionFormer)
    loss = loss_of(network, known.config["model"]["regression_range"], known.config["train_cfg"])
    features, mask, targets = training_batch(known)
    return known, network, loss, network(features, mask), targets


@pytest.mark.parametrize("name", SETS)
def test_points_answer_for_the_published_actions(name: str) -> None:
    known, _, loss, outputs, targets = trained_on(name)
    points = loss.points([part.shape[1] for part in outputs.offsets], torch.device("cpu"))
    expected = [known.outputs[f"eval/0/points/{level}"] for level in range(len(outputs.offsets))]
    np.testing.assert_array_equal(points, np.concatenate(expected))
    for video, target in enumerate(targets):
        classes, distances = loss.assign(points, target)
        np.testing.assert_array_equal(classes, known.outputs["train/gt_cls"][video])
        chosen = classes.sum(dim=1) > 0
        np.testing.assert_allclose(distances[chosen], known.outputs["train/gt_offsets"][video][chosen], rtol=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_losses_of_two_steps_equal_the_published_ones(name: str) -> None:
    known, _, loss, outputs, targets = trained_on(name)
    assert loss.normaliser == known.outputs["train/loss_normalizer_before"]
    for call, after in (("loss", "after"), ("loss_second_call", "after2")):
        found = loss(outputs, targets)
        expected = {part: known.outputs[f"train/{call}/{part}_loss"] for part in ("cls", "reg", "final")}
        np.testing.assert_allclose(found.parts["classification"].item(), expected["cls"], **LOSSES)
        np.testing.assert_allclose(found.parts["regression"].item(), expected["reg"], **LOSSES)
        np.testing.assert_allclose(found.total.item(), expected["final"], **LOSSES)
        np.testing.assert_allclose(loss.normaliser.item(), known.outputs[f"train/loss_normalizer_{after}"], rtol=1e-12)


def gradient_norms(network: ActionFormer, layout: str) -> dict[str, float]:
    """By published name; -1 for a weight that got no gradient at all."""
    form = published.find_layout("actionformer", layout)
    return {
        form.published_name(name): -1.0 if weight.grad is None else weight.grad.double().norm().item()
        for name, weight in network.named_parameters()
    }


def assert_gradients(known: GoldenSet, found: dict[str, float], atol: float) -> None:
    expected = {key.removeprefix("grad_norm/"): v for key, v in known.outputs.items() if key.startswith("grad_norm/")}
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", SETS)
def test_gradients_equal_the_published_ones(name: str) -> None:
    known, network, loss, outputs, targets = trained_on(name)
    loss(outputs, targets).total.backward()
    assert_gradients(known, gradient_norms(network, "official"), atol=1e-6)


def test_opentad_losses_and_gradients_equal_the_published_ones() -> None:
    known = golden.read("opentad/actionformer")
    network = published.load("actionformer", "opentad", known.state, known.config["model"])
    assert isinstance(network, ActionFormer)
    head = known.config["model"]["rpn_head"]
    training = {"loss_weight": 1.0, **head, "init_loss_norm": head["loss_normalizer"]}
    loss = loss_of(network, head["prior_generator"]["regression_range"], training)
    targets = [
        Targets(*(torch.from_numpy(known.inputs[f"gt/{video}/{part}"]) for part in ("segments", "labels")))
        for video in range(known.config["batch"])
    ]
    found = loss(network(torch.from_numpy(known.inputs["x"]), torch.from_numpy(known.inputs["mask"])), targets)
    np.testing.assert_allclose(found.parts["classification"].item(), known.outputs["loss/cls_loss"], **LOSSES)
    np.testing.assert_allclose(found.parts["regression"].item(), known.outputs["loss/reg_loss"], **LOSSES)
    np.testing.assert_allclose(found.total.item(), known.outputs["loss/cost"], **LOSSES)
    np.testing.assert_allclose(loss.normaliser.item(), known.outputs["loss_normalizer_after"], rtol=1e-6)
    found.total.backward()
    assert_gradients(known, gradient_norms(network, "opentad"), atol=1e-7)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("term", "kind"), [(giou, "giou"), (diou, "diou")])
def test_regression_terms_equal_the_published_ones(name: str, term, kind: str) -> None:
    known = golden.read(f"actionformer/{name}")
    offsets = torch.from_numpy(known.inputs["loss/pred_offsets"]).requires_grad_()
    found = term(offsets, torch.from_numpy(known.inputs["loss/gt_offsets"]))
    np.testing.assert_allclose(found.detach(), known.outputs[f"loss/{kind}"], rtol=1e-5, atol=1e-6)
    found.sum().backward()
    np.testing.assert_allclose(offsets.grad, known.outputs[f"loss/{kind}_grad_of_sum"], rtol=1e-5, atol=1e-6)
    edges = [torch.from_numpy(known.inputs[f"loss/edge_{which}_offsets"]) for which in ("pred", "gt")]
    np.testing.assert_allclose(term(*edges), known.outputs[f"loss/edge_{kind}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_the_focal_term_equals_the_published_one(name: str) -> None:
    known = golden.read(f"actionformer/{name}")
    logits = torch.from_numpy(known.inputs["loss/logits"]).requires_grad_()
    found = focal(logits, torch.from_numpy(known.inputs["loss/targets"]))
    np.testing.assert_allclose(found.detach(), known.outputs["loss/focal"], rtol=1e-5, atol=1e-7)
    found.sum().backward()
    np.testing.assert_allclose(logits.grad, known.outputs["loss/focal_grad_of_sum"], rtol=1e-4, atol=1e-6)


TINY = ActionFormerConfig((4,), 3, channels=8, neck_channels=8, head_channels=8, heads=2, windows=(5, 5))


def test_a_batch_without_actions_still_trains_the_classifier() -> None:
    network = ActionFormer(TINY)
    loss = ActionFormerLoss(ActionFormerLossConfig(actionformer_loss.ranges_of(2)), TINY)
    outputs = network(torch.randn(1, 4, 16), torch.ones(1, 16, dtype=torch.bool))
    found = loss(outputs, [Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))])
    assert found.parts["regression"].item() == 0
    assert found.total.item() > 0
    found.total.backward()
    assert loss.normaliser.item() == pytest.approx(90.1)


@pytest.mark.parametrize(("share", "labels"), [(True, {1}), (False, {0, 1})])
def test_a_point_within_two_actions_answers_for_the_shorter_one(share: bool, labels: set[int]) -> None:
    config = ActionFormerLossConfig(((0.0, 100.0), (200.0, 300.0)), center_radius=None, share_similar=share)
    loss = ActionFormerLoss(config, TINY)
    points = loss.points([16, 8], torch.device("cpu"))
    classes, distances = loss.assign(points, Targets(torch.tensor([[1.0, 9.0], [4.0, 7.0]]), torch.tensor([0, 1])))
    assert set(classes[5].nonzero().flatten().tolist()) == labels
    assert distances[5].tolist() == [1.0, 2.0]
    assert classes[2].tolist() == [1, 0, 0]
    assert not classes[9].any()


def test_presets_have_a_range_for_every_level() -> None:
    from models.detectors import actionformer_config

    for name in ("thumos", "activitynet", "epic_kitchens", "ego4d"):
        ActionFormerLoss(getattr(actionformer_loss, name)(), getattr(actionformer_config, name)())
    ActionFormerLoss(actionformer_loss.compact(), actionformer_config.compact(8, 2))
    with pytest.raises(ValueError, match="1 regression ranges for 2 levels"):
        ActionFormerLoss(ActionFormerLossConfig(((0.0, 4.0),)), TINY)


def test_training_lowers_the_loss_until_the_actions_are_found() -> None:
    torch.manual_seed(0)
    config = replace(TINY, input_channels=(2,), num_classes=2, channels=16, neck_channels=16, head_channels=16)
    network = ActionFormer(config)
    learn(
        network, ActionFormerLoss(ActionFormerLossConfig(actionformer_loss.ranges_of(2), initial_positives=4.0), config)
    )
    assert_finds(network, score=0.5, within_steps=0.75)
