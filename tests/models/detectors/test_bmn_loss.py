"""BMN's loss: labels, losses and gradients of two published codes, and what it asks of padded windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exporters import published
from models import geometry
from models.detectors import bmn_loss, map_targets
from models.detectors.bmn import Bmn, BmnOutputs
from models.detectors.bmn_loss import BmnLoss, BmnLossConfig
from models.detectors.detector import Detector, Targets
from tests.models.detectors.test_bmn import by_duration, jjboy, opentad
from tests.support import golden, learning, networks

ACTIONS = learning.FROM_STEP_TO_STEP._replace(labels=torch.zeros(2, dtype=torch.int64))
JJBOY = BmnLossConfig(spill="everywhere", eps=1e-6)
OPENTAD = replace(bmn_loss.thumos(), spill="inside")


class GivenDraws(BmnLoss):
    """With draws, and where given overlaps, that a published code has used."""

    draws: list[Tensor]
    given_overlaps: Tensor | None = None

    def draw(self, like: Tensor) -> Tensor:
        return self.draws.pop(0).to(like.dtype)

    def overlaps(self, spans: Tensor) -> Tensor:
        found = super().overlaps(spans)
        if self.given_overlaps is None:
            return found
        given, self.given_overlaps = self.given_overlaps[0], self.given_overlaps[1:]
        return given


def targets_of(known: golden.GoldenSet, network: Bmn, count: int) -> list[Targets]:
    """JJBOY's segments are in seconds, OpenTAD's in steps."""
    found = []
    for video in range(count):
        spans = known.inputs[f"gt/{video}/segments"]
        if f"gt/{video}/duration_second" in known.inputs:
            part = known.inputs[f"gt/{video}/feature_frame"] / known.inputs[f"gt/{video}/duration_frame"]
            seconds = part * known.inputs[f"gt/{video}/duration_second"]
            spans = np.clip(spans / seconds, 0, 1) * network.config.length
        found.append(Targets(torch.from_numpy(spans).float(), torch.zeros(len(spans), dtype=torch.int64)))
    return found


def check_gradients(known: golden.GoldenSet, network: Bmn, system: str, layout: str) -> None:
    form = published.find_layout(system, layout)
    for name, weight in network.named_parameters():
        assert weight.grad is not None
        expected = known.outputs[f"grad_norm/{form.published_name(name)}"]
        assert weight.grad.double().norm().item() == pytest.approx(float(expected), rel=1e-3, abs=1e-7)


def test_jjboys_labels_losses_and_gradients_come_out() -> None:
    known, network = jjboy()
    loss = GivenDraws(JJBOY, network.config)
    targets = targets_of(known, network, 4)
    for side, name in enumerate(("start", "end")):
        labels = torch.stack([loss.boundaries.labels(video.spans[:, side], 24) for video in targets])
        np.testing.assert_allclose(labels, known.outputs[f"label/{name}"], atol=1e-6)
    published_overlaps = by_duration(network, known.outputs["label/iou_map"])
    np.testing.assert_allclose(torch.stack([loss.overlaps(v.spans) for v in targets]), published_overlaps, atol=1e-6)
    # Theirs hold some 1e-16, which count as an overlap, so their very labels are needed.
    loss.given_overlaps = published_overlaps
    loss.draws = [by_duration(network, known.inputs[name]) for name in ("rand_m", "rand_l")]
    outputs = network(torch.from_numpy(known.inputs["x"]), torch.ones(4, 24, dtype=torch.bool))
    found = loss(outputs, targets)
    found.total.backward()
    assert found.parts["boundary"].item() == pytest.approx(float(known.outputs["loss/tem"]), rel=1e-5)
    assert found.parts["classification"].item() == pytest.approx(float(known.outputs["loss/pem_cls"]), rel=1e-5)
    assert found.parts["regression"].item() / 2 == pytest.approx(float(known.outputs["loss/pem_reg"]), rel=1e-5)
    assert found.total.item() == pytest.approx(float(known.outputs["loss/total"]), rel=1e-5)
    check_gradients(known, network, "bmn", "jjboy")


def test_jjboys_losses_come_out_where_every_cell_is_regressed() -> None:
    known, network = jjboy()
    loss = GivenDraws(JJBOY, network.config)
    loss.draws = [by_duration(network, known.inputs[name]) for name in ("rand_m", "rand_l")]
    overlaps = by_duration(network, known.inputs["syn/gt_iou_map"]) * network.config.shape.fits()
    with torch.no_grad():
        outputs = network(torch.from_numpy(known.inputs["x"]), torch.ones(4, 24, dtype=torch.bool))
        valid = loss.cells.present(outputs.mask) > 0
        regression = loss.regression(outputs.answers[:, 0].sigmoid(), overlaps, valid) / 2
        classification = map_targets.balanced_cross_entropy(outputs.answers[:, 1], overlaps > 0.9, valid, eps=JJBOY.eps)
        boundary = sum(
            map_targets.balanced_cross_entropy(
                outputs.boundaries[:, side], torch.from_numpy(known.inputs[f"syn/gt_{name}"]) > 0.5, eps=JJBOY.eps
            )
            for side, name in enumerate(("start", "end"))
        )
    assert regression.item() == pytest.approx(float(known.outputs["loss_syn/pem_reg"]), rel=1e-5)
    assert classification.item() == pytest.approx(float(known.outputs["loss_syn/pem_cls"]), rel=1e-5)
    assert float(boundary) == pytest.approx(float(known.outputs["loss_syn/tem"]), rel=1e-5)


def test_opentads_labels_losses_and_gradients_come_out() -> None:
    known, network = opentad()
    loss = GivenDraws(OPENTAD, network.config)
    targets = targets_of(known, network, 3)
    inside = torch.from_numpy(known.outputs["target/valid_mask"])
    for side, name in enumerate(("start", "end")):
        labels = torch.stack([loss.boundaries.labels(video.spans[:, side], 24) for video in targets])
        np.testing.assert_array_equal(labels > 0.5, known.outputs[f"target/{name}"] > 0)
    overlaps = torch.stack([loss.overlaps(video.spans) for video in targets])
    np.testing.assert_allclose(overlaps[:, inside], known.outputs["target/iou_valid_only"], atol=1e-6)
    loss.draws = [torch.zeros(3, 16, 24) for _ in range(2)]
    for number, draws in enumerate(loss.draws):
        draws[:, inside] = torch.from_numpy(known.outputs[f"rand/{number}"])
    found = loss(network(torch.from_numpy(known.inputs["x"]), torch.from_numpy(known.inputs["mask"])), targets)
    found.total.backward()
    assert found.parts["boundary"].item() == pytest.approx(float(known.outputs["loss/loss_tem"]), rel=1e-5)
    assert found.parts["classification"].item() == pytest.approx(float(known.outputs["loss/loss_cls"]), rel=1e-5)
    assert 5 * found.parts["regression"].item() == pytest.approx(float(known.outputs["loss/loss_reg"]), rel=1e-5)
    assert found.total.item() == pytest.approx(float(known.outputs["loss/cost"]), rel=1e-5)
    check_gradients(known, network, "bmn", "opentad")


def outputs_of(batch: int, real: list[int]) -> BmnOutputs:
    torch.manual_seed(0)
    mask = torch.arange(16) < torch.tensor(real)[:, None]
    return BmnOutputs(torch.randn(batch, 2, 16), torch.randn(batch, 2, 16, 16), mask)


TARGETS = [
    Targets(torch.tensor([[1.0, 5.0], [6.0, 9.5]]), torch.tensor([0, 0])),
    Targets(torch.tensor([[0.0, 8.0]]), torch.tensor([0])),
]


def test_what_stands_at_padded_steps_costs_nothing() -> None:
    loss = BmnLoss(BmnLossConfig(), networks.BMN)
    outputs = outputs_of(2, [16, 9])
    noisy = outputs._replace(boundaries=outputs.boundaries.clone(), answers=outputs.answers.clone())
    noisy.boundaries[1, :, 9:] = 50.0
    noisy.answers[1, :, ~loss.cells.present(outputs.mask)[1].bool()] = 50.0
    torch.manual_seed(1)
    first = loss(outputs, TARGETS)
    torch.manual_seed(1)
    assert torch.equal(first.total, loss(noisy, TARGETS).total)


@pytest.mark.parametrize("config", [BmnLossConfig(), JJBOY, OPENTAD], ids=["clean", "jjboy", "opentad"])
def test_windows_without_actions_and_without_steps_stay_finite(config: BmnLossConfig) -> None:
    loss = BmnLoss(config, networks.BMN)
    nothing = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    outputs = outputs_of(2, [16, 0])
    for tensor in outputs[:2]:
        tensor.requires_grad_()
    found = loss(outputs, [nothing, nothing])
    found.total.backward()
    assert found.total.isfinite()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in outputs[:2])


def test_better_answers_cost_less() -> None:
    loss = BmnLoss(BmnLossConfig(zero_is_low=True), networks.BMN)
    outputs = outputs_of(2, [16, 16])
    overlaps = torch.stack([loss.overlaps(video.spans) for video in TARGETS])
    right = torch.stack([torch.logit(overlaps, eps=1e-4), 20.0 * ((overlaps > 0.9).float() - 0.5)], dim=1)
    labels = torch.stack(
        [torch.stack([loss.boundaries.labels(video.spans[:, side], 16) for side in range(2)]) for video in TARGETS]
    )
    perfect = outputs._replace(answers=right, boundaries=20.0 * ((labels > 0.5).float() - 0.5))
    good, bad = loss(perfect, TARGETS), loss(outputs, TARGETS)
    assert all(good.parts[name] < 0.01 for name in good.parts)
    assert all(bad.parts[name] > 5 * good.parts[name] for name in good.parts)


def test_weights_of_the_terms_are_the_configurations() -> None:
    plain: dict[str, Any] = {"regression_weight": 0.0, "classification_weight": 0.0, "boundary_weight": 0.0}
    outputs = outputs_of(2, [16, 16])
    for name in ("regression", "classification", "boundary"):
        loss = BmnLoss(BmnLossConfig(**{**plain, f"{name}_weight": 3.0}), networks.BMN)
        torch.manual_seed(1)
        found = loss(outputs, TARGETS)
        assert found.total.item() == pytest.approx(3 * found.parts[name].item(), rel=1e-6)


def test_a_network_learns_to_find_two_actions() -> None:
    config = replace(networks.BMN, input_channels=(2,), length=32, durations=16)
    torch.manual_seed(0)
    network = Bmn(config)
    first, last = learning.learn(network, BmnLoss(BmnLossConfig(zero_is_low=True), config), ACTIONS, rate=1e-2)
    assert last.total < first.total / 5
    assert_finds_both(network, within_steps=1.0)


def assert_finds_both(network: Detector, within_steps: float) -> None:
    """The two best spans that do not overlap are the actions, and score well above the third."""
    with torch.inference_mode():
        found = network.decode(network(learning.FEATURES, learning.MASK))
    scores = found.scores[0, :, 0].numpy()
    apart = geometry.Nms("hard", iou_threshold=0.3, max_kept=3)
    best = geometry.suppress(found.spans[0].numpy(), scores, np.zeros(len(scores)), apart, class_agnostic=True)
    order = best.spans[:2, 0].argsort()
    np.testing.assert_allclose(best.spans[:2][order], ACTIONS.spans, atol=within_steps)
    assert best.scores[1] > 0.4
    assert best.scores[2] < 0.1
