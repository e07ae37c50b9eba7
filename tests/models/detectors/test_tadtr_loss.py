"""TadTR's loss: matching, terms and gradients against the published numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exporters import published
from models.detectors.detector import Targets
from models.detectors.matching import assign
from models.detectors.queries import to_ends
from models.detectors.tadtr import TadTR, TadTROutputs
from models.detectors.tadtr_config import TadTRConfig
from models.detectors.tadtr_loss import TadTRLoss, TadTRLossConfig, fractions
from tests.models.detectors.test_tadtr import batch_of
from tests.support import golden
from tests.support.golden import GoldenSet
from tests.support.learning import assert_finds, learn
from tests.support.networks import SMALL_DETECTORS, scattered

LOSSES = {"rtol": 1e-5, "atol": 0}
PARTS = {"classification": "loss_ce", "segments": "loss_segments", "iou": "loss_iou", "actionness": "loss_actionness"}
SMALL: TadTRConfig = SMALL_DETECTORS["tadtr"]["windows"]


def targets_of(known: GoldenSet) -> list[Targets]:
    found = []
    for window, length in enumerate(known.config["lens"]):
        segments = torch.from_numpy(known.inputs[f"gt/{window}/segments_cw"])
        spans = to_ends(segments.double()) * length - 0.5
        found.append(Targets(spans, torch.from_numpy(known.inputs[f"gt/{window}/labels"])))
    return found


def trained_on() -> tuple[GoldenSet, TadTR, TadTRLoss, TadTROutputs, list[Targets]]:
    known = golden.read("tadtr")
    network = published.load("tadtr", "official", known.state, known.config["full_options"])
    assert isinstance(network, TadTR)
    loss = TadTRLoss(TadTRLossConfig(actionness_over_batch=True), network.config)
    return known, network, loss, network(*batch_of(known)), targets_of(known)


def test_queries_answer_for_the_published_actions() -> None:
    known, _, loss, outputs, targets = trained_on()
    layers = [f"match/aux{layer}" for layer in range(len(outputs.logits) - 1)] + ["match/final"]
    for layer, name in enumerate(layers):
        for window, target in enumerate(targets):
            wanted = fractions(target, outputs.steps[window])
            cost = loss.cost(outputs.logits[layer, window], outputs.segments[layer, window], wanted)
            np.testing.assert_allclose(cost, known.outputs[f"{name}/{window}/cost"], atol=5e-5, rtol=1e-4)
            queries, actions = assign(cost)
            np.testing.assert_array_equal(queries, known.outputs[f"{name}/{window}/query"])
            np.testing.assert_array_equal(actions, known.outputs[f"{name}/{window}/gt"])


def test_losses_equal_the_published_ones() -> None:
    known, _, loss, outputs, targets = trained_on()
    found = loss(outputs, targets)
    assert set(found.parts) == set(PARTS)
    for ours, theirs in PARTS.items():
        np.testing.assert_allclose(found.parts[ours].item(), known.outputs[f"loss/{theirs}"], **LOSSES)
    wanted = [fractions(target, steps) for target, steps in zip(targets, outputs.steps, strict=True)]
    for layer in range(len(outputs.logits) - 1):
        parts = loss.of_layer(outputs.logits[layer], outputs.segments[layer], wanted)
        for ours, part in parts.items():
            np.testing.assert_allclose(part.item(), known.outputs[f"loss/{PARTS[ours]}_{layer}"], **LOSSES)
    np.testing.assert_allclose(found.total.item(), known.outputs["loss_total"], **LOSSES)


def test_gradients_equal_the_published_ones() -> None:
    known, network, loss, outputs, targets = trained_on()
    loss(outputs, targets).total.backward()
    expected = {key.removeprefix("grad_norm/"): v for key, v in known.outputs.items() if key.startswith("grad_norm/")}
    published_name = published.find_layout("tadtr", "official").published_name
    for name, weight in network.named_parameters():
        # Segment heads stand in their network twice, under the first of two names.
        theirs = published_name(name).replace("segment_embed", "transformer.decoder.segment_embed")
        found = -1.0 if weight.grad is None else weight.grad.double().norm().item()
        np.testing.assert_allclose(found, expected.pop(theirs), rtol=1e-3, atol=1e-7, err_msg=name)
    assert expected == {}


def predicted(segments: list[list[float]], actionness: list[float]) -> TadTROutputs:
    """One layer of one window of 10 steps, all of whose classes are equally likely."""
    found = torch.tensor(segments)[None, None]
    logits = torch.zeros(1, 1, len(segments), SMALL.num_classes)
    return TadTROutputs(logits, found, torch.tensor([actionness]), torch.tensor([10.0]), torch.tensor([False]))


def test_steps_and_fractions_name_the_same_segment() -> None:
    network = scattered(TadTR, SMALL)
    with torch.inference_mode():
        outputs = network(torch.randn(1, 6, 16), torch.ones(1, 16, dtype=torch.bool))
        spans = network.decode(outputs).spans[0]
    found = fractions(Targets(spans, torch.zeros(5, dtype=torch.int64)), outputs.steps[0])
    torch.testing.assert_close(found.segments, outputs.segments[-1, 0], atol=1e-6, rtol=0)


def test_actionness_is_measured_by_the_actions_of_its_own_window() -> None:
    one, other = predicted([[0.5, 0.2]], [0.0]), predicted([[0.5, 0.2]], [0.0])
    joined = zip(one, other, (1, 1, 0, 0, 0), strict=True)
    both = TadTROutputs(*(torch.cat([left, right], dim=axis) for left, right, axis in joined))
    there = Targets(torch.tensor([[3.5, 5.5]]), torch.tensor([0]))  # fractions 0.4 to 0.6
    nothing = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    own, batch = (TadTRLoss(TadTRLossConfig(actionness_over_batch=over), SMALL) for over in (False, True))
    assert own(both, [there, nothing]).parts["actionness"].item() == pytest.approx(0.5)
    assert batch(both, [there, nothing]).parts["actionness"].item() == pytest.approx(1.0)


def test_a_batch_without_actions_still_teaches_what_is_none() -> None:
    network = scattered(TadTR, SMALL)
    nothing = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    found = TadTRLoss(TadTRLossConfig(), SMALL)(network(torch.randn(1, 6, 16), torch.ones(1, 16) > 0), [nothing])
    assert found.parts["segments"].item() == found.parts["iou"].item() == 0
    assert min(found.parts["classification"].item(), found.parts["actionness"].item()) > 0
    found.total.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in network.parameters())


def test_of_more_actions_than_queries_the_cheapest_are_answered_for() -> None:
    outputs = predicted([[0.25, 0.1]], [1.0])
    near, far = [2.0 - 0.5, 3.0 - 0.5], [7.0, 9.0]
    found = TadTRLoss(TadTRLossConfig(), SMALL)(outputs, [Targets(torch.tensor([far, near]), torch.tensor([0, 1]))])
    assert found.parts["segments"].item() == pytest.approx(0, abs=1e-6)
    assert found.parts["iou"].item() == pytest.approx(0, abs=1e-5)


def test_without_actionness_there_is_no_loss_of_it() -> None:
    config = replace(SMALL, actionness=False)
    found = TadTRLoss(TadTRLossConfig(), config)(
        predicted([[0.25, 0.1]], [1.0]), [Targets(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))]
    )
    assert set(found.parts) == {"classification", "segments", "iou"}


@pytest.mark.parametrize("name", ["class_weight", "iou_cost", "actionness_weight"])
def test_weights_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1.0"):
        TadTRLossConfig(**{name: -1.0})


def test_training_lowers_the_loss_until_the_actions_are_found() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, input_channels=(2,), num_classes=2, channels=16, length=32, dropout=0.0)
    network = TadTR(config)
    learn(network, TadTRLoss(TadTRLossConfig(), config), steps=200, clip_norm=0.5)
    assert_finds(network, score=0.4, within_steps=0.75)
