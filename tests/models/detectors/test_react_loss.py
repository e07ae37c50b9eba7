"""ReAct's loss: matching, every term, gradients and the contrast of snippets against the published numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from exporters import published
from models.detectors import react_contrast, react_loss
from models.detectors.detector import Targets
from models.detectors.queries import to_ends
from models.detectors.react import ReAct, ReActOutputs
from models.detectors.react_config import ReActConfig
from models.detectors.react_contrast import Actions, Contrast, ContrastConfig, info_nce, parts_of, pool
from models.detectors.react_loss import Pairs, ReActLoss, ReActLossConfig, Wanted, wanted_of
from tests.models.detectors.test_react import official, released, training_batch
from tests.support import golden
from tests.support.golden import GoldenSet
from tests.support.learning import AROUND_STEPS, assert_finds, learn

LOSSES = {"rtol": 1e-5, "atol": 0}
NAMES = {"location": "seg", "overlap": "iou", "quality": "quality", "classification": "ce"}


def actions_of(known: GoldenSet, video: int) -> Targets:
    """Their fractions as positions on the clip's grid; one action begins before its clip."""
    truth = torch.from_numpy(known.inputs[f"train/{video}/gt_cls_mid_len"])
    return Targets(to_ends(truth[:, 1:]) * known.config["train_lens"][video] - 0.5, truth[:, 0].long())


@cache
def trained_on() -> tuple[GoldenSet, ReAct, ReActOutputs, list[Targets], list[Wanted]]:
    known = golden.read("react")
    network = released(known)
    features, mask = training_batch(known)
    targets = [actions_of(known, video) for video in range(len(mask))]
    wanted = [wanted_of(target, present) for target, present in zip(targets, mask, strict=True)]
    return known, network, network(features, mask), targets, wanted


def as_released(known: GoldenSet, **more: float) -> ReActLossConfig:
    """The weights of their configuration; iou_decay is in it, and not in the sum that they descend."""
    model = known.config["model"]
    return ReActLossConfig(
        location=model["coef_l1"],
        overlap=model["coef_iou"],
        classification=model["coef_ce"],
        quality=model["coef_quality"],
        ace_dec=model["coef_acedec"],
        **{"iou_decay": 0.0, "ace_enc": 0.0, **more},
    )


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_queries_are_matched_to_the_published_actions(layer: int) -> None:
    known, network, outputs, _, wanted = trained_on()
    loss = ReActLoss(as_released(known), network.config)
    name = "final" if layer == 3 else f"aux{layer}"
    for video, window in enumerate(wanted):
        cost = loss.cost(outputs.segments[layer, video], outputs.logits[layer, video], window)
        np.testing.assert_allclose(cost, known.outputs[f"match/{name}/{video}/cost"], atol=2e-5, rtol=1e-4)
    pairs = loss.match(outputs, layer, wanted)
    for video, window in enumerate(wanted):
        mine = pairs.windows == video
        np.testing.assert_array_equal(pairs.queries[mine], known.outputs[f"match/{name}/{video}/query"])
        actions = known.outputs[f"match/{name}/{video}/gt"]
        np.testing.assert_array_equal(pairs.segments[mine], window.segments[actions])
        np.testing.assert_array_equal(pairs.labels[mine], window.labels[actions])


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_the_terms_of_every_layer_equal_the_published_ones(layer: int) -> None:
    known, network, outputs, _, wanted = trained_on()
    loss = ReActLoss(as_released(known, iou_decay=known.config["model"]["coef_iou_decay"]), network.config)
    count = sum(known.config["n_gt"])
    found = loss.layer(outputs, layer, wanted, loss.match(outputs, layer, wanted), count)
    prefix = "loss/" if layer == 3 else f"loss/{layer}_"
    for name, theirs in NAMES.items():
        np.testing.assert_allclose(found[name].item(), known.outputs[f"{prefix}{theirs}_loss"], **LOSSES)
    np.testing.assert_allclose(found["iou_decay"].item(), known.outputs[f"{prefix}iou_decay"], **LOSSES)


def test_totals_before_and_after_warm_up_equal_the_published_ones() -> None:
    known, network, outputs, targets, _ = trained_on()
    first = {key: value for key, value in known.outputs.items() if key.startswith("loss_first_step/")}
    for decay, total in ((0.0, "loss_total_as_released"), (1.0, "loss_total_incl_iou_decay")):
        loss = ReActLoss(as_released(known, iou_decay=decay), network.config)
        begun = [loss(outputs, targets) for _ in range(25)]
        expected = sum(float(value) for key, value in first.items() if decay or "iou_decay" not in key)
        for found in (begun[0], begun[-1]):
            np.testing.assert_allclose(found.total.item(), expected, **LOSSES)
            assert found.parts["classification"] == 0
        found = loss(outputs, targets)
        np.testing.assert_allclose(found.total.item(), known.outputs[total], **LOSSES)
        np.testing.assert_allclose(found.parts["ace_dec"].item(), known.outputs["loss/gt_loss"], **LOSSES)
        np.testing.assert_allclose(sum(part.item() for part in found.parts.values()), found.total.item(), rtol=1e-6)
        assert loss.steps_taken == 26


def theirs(known: GoldenSet, name: str) -> str:
    """The decoder's name for heads comes first among the published gradients."""
    name = published.find_layout("react", "official").published_name(name)
    return name if f"grad_norm/{name}" in known.outputs else f"transformer.decoder.{name}"


def test_gradients_equal_the_published_ones() -> None:
    known = golden.read("react")
    network = released(known)
    loss = ReActLoss(replace(as_released(known), warmup_steps=0), network.config)
    targets = [actions_of(known, video) for video in range(len(known.config["n_gt"]))]
    loss(network(*training_batch(known)), targets).total.backward()
    found = {theirs(known, name): weight.grad for name, weight in network.named_parameters()}
    expected = {key.removeprefix("grad_norm/"): v for key, v in known.outputs.items() if key.startswith("grad_norm/")}
    assert {name for name in expected if name not in found} == {
        f"transformer.encoder.layers.{layer}.norm2.{part}" for layer in (0, 1) for part in ("weight", "bias")
    }  # of theirs, never applied
    for name, gradient in found.items():
        norm = -1.0 if gradient is None else gradient.double().norm().item()
        np.testing.assert_allclose(norm, expected[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_the_contrast_of_given_regions_equals_the_published_one() -> None:
    """Their regions, on clips padded to the longest: of each anchor itself, two parts, its positive, its negative."""
    known, network = official()
    clips = [known.inputs[f"train/{v}/feat"] for v in range(3)]
    clips += [known.inputs[f"ace_enc/{v}/{kind}_feat"] for kind in ("pos", "neg") for v in range(3)]
    length = known.config["model"]["clip_len"]
    padded = [torch.nn.functional.pad(torch.from_numpy(clip).T, (0, length - len(clip))) for clip in clips]
    regions = torch.from_numpy(known.outputs["ace_enc/rois"])
    pooled = torch.cat([pool(padded[int(region[0])], region[None, 1:]) for region in regions]).reshape(3, 5, -1)
    network.zero_grad()
    found = torch.stack(
        [info_nce(network.project(rows[[0, 3]]), network.project(rows[[1, 2, 4]]), 0.07) for rows in pooled]
    ).mean()
    np.testing.assert_allclose(found.item(), known.outputs["ace_enc/loss_raw"], **LOSSES)
    weighted = known.config["model"]["coef_aceenc"] * found
    np.testing.assert_allclose(weighted.item(), known.outputs["ace_enc/loss_weighted"], **LOSSES)
    weighted.backward()
    for part in ("weight", "bias"):
        gradient = getattr(network.project, part).grad.double().norm().item()
        expected = known.outputs[f"ace_enc/grad_norm/input_proj.layers.0.{part}"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-7)
    network.zero_grad()


TINY = ReActConfig(
    (4,), 3, channels=8, heads=2, feed_forward=12, encoder_layers=1, decoder_layers=2, queries=5, train_length=16
)


def tiny_batch(
    labels: tuple[tuple[int, ...], ...] = ((0, 1), (1, 2)), config: ReActConfig = TINY
) -> tuple[ReAct, ReActOutputs, list[Targets]]:
    torch.manual_seed(0)
    network = ReAct(config)
    outputs = network(torch.randn(len(labels), 4, 16), torch.ones(len(labels), 16, dtype=torch.bool))
    spans = torch.tensor([[1.0, 4.5], [8.0, 14.0]])
    return network, outputs, [Targets(spans[: len(one)], torch.tensor(one, dtype=torch.int64)) for one in labels]


@pytest.mark.parametrize("part", react_loss.PARTS)
def test_a_term_of_weight_0_is_out(part: str) -> None:
    network, outputs, targets = tiny_batch()
    config = ReActLossConfig(warmup_steps=0)
    found = {}
    for weight in (0.0, getattr(config, part)):
        torch.manual_seed(1)
        found[weight] = ReActLoss(replace(config, **{part: weight}), network.config)(outputs, targets)
    without, whole = found.values()
    assert without.parts[part] == 0
    assert whole.parts[part] > 0
    torch.testing.assert_close(whole.total - without.total, whole.parts[part], rtol=1e-4, atol=1e-5)
    assert set(without.parts) == set(react_loss.PARTS)


def test_the_contrast_may_come_first_and_then_rest() -> None:
    network, outputs, targets = tiny_batch()
    loss = ReActLoss(ReActLossConfig(contrast_steps=2, warmup_steps=1), network.config)
    for _ in range(2):
        found = loss(outputs, targets)
        assert found.total == found.parts["ace_enc"] > 0
        assert not any(part for name, part in found.parts.items() if name != "ace_enc")
    found.total.backward(retain_graph=True)
    learning = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert learning == {"project.weight", "project.bias"}
    warming, whole = loss(outputs, targets), loss(outputs, targets)
    assert warming.parts["classification"] == 0
    assert whole.parts["classification"] > 0
    assert warming.parts["ace_enc"] == whole.parts["ace_enc"] == 0


def test_a_loss_goes_on_from_its_checkpoint() -> None:
    network, outputs, targets = tiny_batch()
    config = ReActLossConfig(warmup_steps=1)
    first, again = (ReActLoss(config, network.config) for _ in range(2))
    first(outputs, targets)
    again.load_state_dict(first.state_dict())
    totals = []
    for loss in (first, again):
        torch.manual_seed(3)
        totals.append(loss(outputs, targets).total.item())
    assert totals[0] == totals[1]
    assert again.steps_taken == 2
    assert again.contrast is not None
    assert again.contrast.remembered == 8


def test_windows_without_actions_train_the_classifier_alone() -> None:
    network, outputs, targets = tiny_batch(labels=((), ()))
    found = ReActLoss(ReActLossConfig(warmup_steps=0), network.config)(outputs, targets)
    assert found.parts["location"] == found.parts["overlap"] == found.parts["ace_dec"] == found.parts["ace_enc"] == 0
    assert found.parts["classification"] > 0
    assert found.parts["quality"] > 0  # every segment overlaps nothing, and should say so
    found.total.backward()
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in network.parameters())


def test_more_actions_than_queries_leave_the_worst_without() -> None:
    network, outputs, _ = tiny_batch(labels=((0,),))
    starts = torch.arange(7.0)
    targets = [Targets(torch.stack([starts * 2, starts * 2 + 1.5], dim=1), torch.zeros(7, dtype=torch.int64))]
    loss = ReActLoss(ReActLossConfig(warmup_steps=0), network.config)
    wanted = [wanted_of(targets[0], outputs.window.mask[0])]
    pairs = loss.match(outputs, -1, wanted)
    assert sorted(pairs.queries.tolist()) == [0, 1, 2, 3, 4]
    assert torch.isfinite(loss(outputs, targets).total)


def test_actions_beside_the_snippets_ask_nothing() -> None:
    targets = Targets(torch.tensor([[-3.0, -0.5], [-2.0, 3.5], [9.0, 20.0]]), torch.tensor([0, 1, 2]))
    found = wanted_of(targets, torch.arange(16) < 10)
    assert found.labels.tolist() == [1, 2]
    torch.testing.assert_close(to_ends(found.segments), torch.tensor([[0.0, 0.4], [0.95, 1.0]]))


def test_ace_dec_asks_those_who_answer_where_the_actions_are() -> None:
    network, outputs, _ = tiny_batch()
    asked = []

    def classify_at(window, segments: Tensor) -> Tensor:
        asked.append(segments)
        return network.classify_at(window, segments)

    loss = ReActLoss(ReActLossConfig(), network.config)
    pairs = Pairs(
        torch.tensor([0, 1]), torch.tensor([3, 1]), torch.tensor([[0.2, 0.1], [0.6, 0.4]]), torch.tensor([2, 0])
    )
    found = loss.held(outputs._replace(classify_at=classify_at), pairs, count=2)
    held = torch.full((2, 5, 2), 0.5)
    held[0, 3], held[1, 1] = pairs.segments
    assert torch.equal(asked[0], held)
    logits = network.classify_at(outputs.window, held)
    wanted = torch.zeros(2, 2, 3)
    wanted[:, 0, 2], wanted[:, 1, 0] = 1, 1
    by_hand = react_loss.focal(torch.stack([logits[:, 0, 3], logits[:, 1, 1]], dim=1), wanted).sum() / 2
    torch.testing.assert_close(found, by_hand)


def test_parts_of_an_action_are_cut_by_the_published_rule() -> None:
    torch.manual_seed(0)
    for span, window, least, most in (((2.0, 12.0), 20, 0.2, 0.5), ((1.0, 19.0), 20, 0.1, 0.4)):
        found = parts_of(torch.tensor(span), window, 2000)
        shares = (found[:, 1] - found[:, 0]) / (span[1] - span[0])
        assert least <= shares.min() < least + 0.01
        assert most - 0.01 < shares.max() <= most
        assert span[0] <= found[:, 0].min() < span[0] + 0.1
        assert span[1] - 0.1 < found[:, 1].max() <= span[1] + 1e-5


def test_info_nce_by_hand() -> None:
    pair = torch.tensor([[2.0, 0.0], [3.0, 3.0]])  # cosine 1/√2
    negatives = torch.tensor([[0.0, 5.0], [-1.0, 0.0]], requires_grad=True)  # cosines 0 and −1
    found = info_nce(pair.requires_grad_(), negatives, 0.5)
    likeness = np.array([0.5**0.5, 0.0, -1.0]) / 0.5
    assert found.item() == pytest.approx(-np.log(np.exp(likeness[0]) / np.exp(likeness).sum()))
    found.backward()
    assert negatives.grad is None
    assert pair.grad is not None


def regions(values: list[float], labels: list[int]) -> Actions:
    """A window whose i-th action fills steps 4 i to 4 i + 3 with one value."""
    features = torch.tensor(values).repeat_interleave(4)[None]
    starts = torch.arange(len(values)) * 4.0
    return Actions(features, torch.stack([starts, starts + 3], dim=1), torch.tensor(labels))


class Spy:
    """Stands in for the projection, and keeps what it was asked to project."""

    weight = torch.ones(1, 1, requires_grad=True)

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.seen.append(rows[:, 0].tolist())
        return rows.expand(-1, 2)


def test_positives_come_from_other_windows_and_negatives_from_other_classes() -> None:
    contrast, spy = Contrast(ContrastConfig(memory=8), 1), Spy()
    contrast([regions([1.0], [0]), regions([2.0], [0]), regions([3.0], [1])], spy)
    # Of the third window's class there is no other action, so two anchors are left, each with a part of itself.
    assert spy.seen == [[1.0, 2.0], [3.0, 1.0], [2.0, 1.0], [3.0, 2.0]]
    assert contrast.memory[:3, 0].tolist() == [1.0, 2.0, 3.0]
    assert contrast.memory_labels.tolist() == [0, 0, 1, -1, -1, -1, -1, -1]


def test_the_memory_serves_where_the_batch_has_nothing_and_forgets_the_oldest() -> None:
    contrast, spy = Contrast(ContrastConfig(memory=2), 1), Spy()
    assert contrast([regions([1.0], [0])], spy).item() == 0
    assert not spy.seen
    contrast([regions([2.0], [0])], spy)
    assert spy.seen == [[2.0, 1.0], [2.0]]
    contrast([regions([3.0], [1])], spy)
    assert sorted(contrast.memory[:, 0].tolist()) == [2.0, 3.0]


def test_an_action_is_never_its_own_positive() -> None:
    contrast, spy = Contrast(ContrastConfig(memory=4), 1), Spy()
    for _ in range(3):
        found = contrast([regions([1.0], [0])], spy)
    assert found.item() == 0
    assert not spy.seen
    contrast([regions([1.0, 5.0], [0, 0])], spy)
    assert sorted(spy.seen[0]) == [1.0, 5.0]


def test_padded_places_take_no_part_in_the_contrast() -> None:
    torch.manual_seed(0)
    network = ReAct(TINY)
    values = torch.randn(2, 4, 9)
    found = []
    for length in (9, 16):
        features = torch.full((2, 4, length), 50.0)
        features[..., :9] = values
        outputs = network(features, (torch.arange(length) < 9).expand(2, length))
        targets = [Targets(torch.tensor([[1.0, 8.4]]), torch.tensor([1]))] * 2
        torch.manual_seed(2)
        loss = ReActLoss(ReActLossConfig(), TINY)
        found.append(loss(outputs, targets).parts["ace_enc"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quality": -1.0}, "quality is -1.0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"contrast_steps": 5, "ace_enc": 0.0}, "ace_enc 0 leaves nothing"),
    ],
)
def test_a_configuration_without_sense_is_told(change: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(ReActLossConfig(), **change)
    with pytest.raises(ValueError, match="temperature is 0"):
        ContrastConfig(temperature=0)
    with pytest.raises(ValueError, match="memory is 0"):
        ContrastConfig(memory=0)


def test_training_lowers_the_loss_until_the_actions_are_found() -> None:
    torch.manual_seed(0)
    config = replace(TINY, input_channels=(2,), num_classes=2, channels=16, feed_forward=32, queries=4)
    network = ReAct(config)
    learn(network, ReActLoss(ReActLossConfig(warmup_steps=10), config), AROUND_STEPS)
    assert_finds(network, AROUND_STEPS, score=0.2, within_steps=1.0)


def test_the_module_of_the_contrast_is_reached_through_the_loss_alone() -> None:
    assert react_loss.Contrast is react_contrast.Contrast
