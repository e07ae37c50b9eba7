"""AFSD's losses and gradients against the published ones, and boundary consistency against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from exporters import published
from models.detectors import afsd_config, afsd_consistency_loss, afsd_loss
from models.detectors.afsd import Afsd, AfsdOfMaps, RunOutputs
from models.detectors.afsd_config import AfsdConfig
from models.detectors.afsd_consistency_loss import triplet
from models.detectors.afsd_loss import AfsdLoss, AfsdLossConfig, boundary_frames, overlap, softmax_focal
from models.detectors.detector import Targets
from tests.support import golden, networks
from tests.support.golden import GoldenSet
from tests.support.learning import AROUND_STEPS, assert_finds, learn

LOSSES = {"rtol": 1e-5, "atol": 0}
SMALL = AfsdConfig((6,), 3, channels=16, groups=2, levels=3, length=16)
FULL = torch.ones(1, 16, dtype=torch.bool)


def trained_on_golden() -> tuple[GoldenSet, AfsdOfMaps, AfsdLoss, RunOutputs, list[Targets]]:
    known = golden.read("afsd_heads")
    frames = known.config["frame_num"]
    yaml = {"dataset": {"num_classes": known.config["num_classes"], "training": {"clip_length": frames}}}
    network = published.load("afsd", "official", known.state, yaml)
    assert isinstance(network, AfsdOfMaps)
    config = AfsdLossConfig(
        known.config["overlap_thresh"], location_weight=known.config["lw"], class_weight=known.config["cw"]
    )
    maps = [torch.from_numpy(known.inputs[name]) for name in ("Mixed_4f", "Mixed_5c")]
    run = network(maps, torch.ones(known.config["batch"], frames // 4, dtype=torch.bool)).runs[0]
    rows = [torch.from_numpy(known.inputs[f"gt/{video}/start_end_label"]) for video in range(known.config["batch"])]
    # Class 0 is background there.
    targets = [Targets(row[:, :2] * frames, row[:, 2].long() - 1) for row in rows]
    return known, network, AfsdLoss(config, network.config), run, targets


def weighted(loss: AfsdLoss, run: RunOutputs, targets: list[Targets], known: GoldenSet) -> dict[str, Tensor]:
    parts = loss.detection(run, loss.assign(run, targets))
    start, end = loss.boundaries(run, torch.from_numpy(known.inputs["boundary_scores"]))
    return {**parts, "start": start, "end": end}


def test_every_part_equals_the_published_one() -> None:
    known, _, loss, run, targets = trained_on_golden()
    found = weighted(loss, run, targets, known)
    location, of_class = known.config["lw"], known.config["cw"]
    expected = {
        "location": location * known.outputs["loss/loc_giou"],
        "class": of_class * known.outputs["loss/conf_focal"],
        "refined_location": location * known.outputs["loss/prop_loc_l1"],
        "refined_class": of_class * known.outputs["loss/prop_conf_focal"],
        "fit": of_class * known.outputs["loss/center_bce"],
        "start": known.outputs["loss/start_bce"],
        "end": known.outputs["loss/end_bce"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].item(), value, **LOSSES, err_msg=name)
    np.testing.assert_allclose(sum(found.values()).item(), known.outputs["loss/cost_weighted"], **LOSSES)


def test_gradients_equal_the_published_ones() -> None:
    known, network, loss, run, targets = trained_on_golden()
    torch.stack(list(weighted(loss, run, targets, known).values())).sum().backward()
    name_of = published.LAYOUTS["afsd"]["official"].published_name
    compared = 0
    for name, weight in network.named_parameters():
        theirs = name_of(name).removeprefix("coarse_pyramid_detection.")
        found = -1.0 if weight.grad is None else float(weight.grad.double().norm())
        expected = float(known.outputs[f"grad_norm/{theirs}"])
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6), theirs
        compared += 1
    assert compared == sum(name.startswith("grad_norm/") for name in known.outputs)


def test_the_whole_loss_is_the_sum_of_its_parts_over_runs_that_stand_side_by_side() -> None:
    config = replace(SMALL, input_channels=(4, 2), fusion="late")
    network, loss = networks.scattered(Afsd, config), AfsdLoss(AfsdLossConfig(), config)
    targets = [networks.annotated(16, 3)]
    outputs = network(torch.randn(1, 6, 16), FULL)
    found = loss(outputs, targets)
    alone = [loss(outputs._replace(runs=(run,)), targets).total for run in outputs.runs]
    torch.testing.assert_close(found.total, alone[0] + alone[1])
    torch.testing.assert_close(found.total, torch.stack(list(found.parts.values())).sum())


def test_a_point_answers_for_the_shortest_action_that_it_stands_in() -> None:
    loss = AfsdLoss(AfsdLossConfig(), SMALL)
    points = torch.tensor([10.0, 22.0, 50.0])
    labels, distances = loss._assign(points, Targets(torch.tensor([[4.0, 40.0], [20.0, 28.0]]), torch.tensor([0, 2])))
    assert labels.tolist() == [1, 3, 0]
    assert distances[:2].tolist() == [[6.0, 30.0], [2.0, 6.0]]


def test_ranges_give_each_level_the_actions_of_its_size() -> None:
    config = AfsdLossConfig(ranges_frames=((0.0, 10.0), (10.0, 30.0), (30.0, 64.0)))
    loss = AfsdLoss(config, SMALL)
    run = networks.scattered(Afsd, SMALL)(torch.randn(1, 6, 16), FULL).runs[0]
    wanted = loss.assign(run, [Targets(torch.tensor([[0.0, 64.0], [30.0, 40.0]]), torch.tensor([0, 1]))])
    per_level = wanted.labels[0].split([16, 8, 4])
    assert set(per_level[0].tolist()) == {0, 2}
    assert per_level[2].tolist() == [1, 1, 1, 1]


def test_the_best_of_a_video_is_refined_however_little_it_fits() -> None:
    run = networks.scattered(Afsd, SMALL)(torch.randn(1, 6, 16), FULL).runs[0]
    targets = [Targets(torch.tensor([[0.0, 64.0]]), torch.tensor([1]))]
    strict, relaxed = (
        AfsdLoss(AfsdLossConfig(1.0, relaxed=flag), SMALL).assign(run, targets) for flag in (False, True)
    )
    assert not strict.refined_labels.any()
    best = overlap(run.distances, relaxed.distances)[0].argmax()
    assert relaxed.refined_labels[0].nonzero().flatten().tolist() == [best]


def test_boundaries_are_a_tenth_of_the_action_wide_and_at_least_two_frames() -> None:
    start, end = boundary_frames(torch.tensor([[10.0, 50.0], [60.2, 63.0]]), 64)
    assert start.nonzero().flatten().tolist() == [8, 9, 10, 11, 12, 59, 60, 61]
    assert end.nonzero().flatten().tolist() == [48, 49, 50, 51, 52, 62, 63]


def test_focal_loss_is_lower_for_what_is_nearly_right() -> None:
    logits = torch.tensor([[0.0, 4.0], [0.0, 0.0], [4.0, 0.0]])
    labels = torch.tensor([1, 1, 0])
    sure, unsure, background = softmax_focal(logits, labels)
    right = torch.tensor([4.0, 0.0]).softmax(dim=0)[0].item()
    assert sure.item() == pytest.approx(-0.75 * (1 - right) ** 2 * np.log(right), rel=1e-3)
    assert background.item() == pytest.approx(sure.item() / 3, rel=1e-5)
    assert unsure > 100 * sure


def test_batches_without_actions_still_train_the_classes() -> None:
    network = networks.scattered(Afsd, SMALL).train()
    nothing = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    found = AfsdLoss(AfsdLossConfig(), SMALL)(network(torch.randn(1, 6, 16), FULL), [nothing])
    assert found.parts["location"].item() == found.parts["fit"].item() == found.parts["consistency"].item() == 0
    assert found.parts["class"].item() > 0
    found.total.backward()


def test_padded_places_ask_for_nothing() -> None:
    network, loss = networks.scattered(Afsd, SMALL), AfsdLoss(AfsdLossConfig(), SMALL)
    mask = torch.arange(16)[None] < 10
    features = torch.randn(1, 6, 16)
    targets = [Targets(torch.tensor([[2.0, 8.0]]), torch.tensor([1]))]
    run = network(features, mask).runs[0]
    wanted = loss.assign(run, targets)
    assert not wanted.labels[~run.valid].any()
    clean, noisy = (loss(network(values, mask), targets).total for values in (features, features + 99 * ~mask[:, None]))
    assert torch.equal(clean, noisy)


@pytest.mark.parametrize(
    ("begin", "order", "pieces"),
    [
        (7, [0, 1, 2, 3, 7, 8, 4, 5, 6, 9], [[2.0, 4.0], [6.0, 8.0], [4.0, 6.0]]),
        (0, [2, 3, 0, 1, 4, 5, 6, 7, 8, 9], [[0.0, 2.0], [4.0, 6.0], [2.0, 4.0]]),
    ],
    ids=["background behind", "background before"],
)
def test_background_moves_into_the_action_and_what_lies_between_makes_room(
    begin: int, order: list, pieces: list
) -> None:
    cut = afsd_consistency_loss._with_hole(torch.arange(10), (2.0, 6.0), place=4, begin=begin, hole=2)
    assert cut.order.tolist() == order
    assert cut.pieces.tolist() == pieces


def test_cuts_hold_every_step_once_and_background_in_their_hole() -> None:
    spans = torch.tensor([[5.0, 25.0], [30.5, 33.0]])
    inside = [((step + 1 > spans[:, 0]) & (step < spans[:, 1])).any().item() for step in range(40)]
    for seed in range(30):
        torch.manual_seed(seed)
        cut = afsd_consistency_loss._cut(spans, 40)
        assert cut is not None
        assert sorted(cut.order.tolist()) == list(range(40))
        low, high = cut.pieces[2].int().tolist()
        assert high - low == 3
        assert not any(inside[step] for step in cut.order[low:high].tolist())
        assert cut.pieces[0, 1] == low
        assert cut.pieces[1, 0] == high


def test_no_cut_without_a_long_action_or_background() -> None:
    assert afsd_consistency_loss._cut(torch.tensor([[5.0, 8.0], [10.0, 13.0]]), 20) is None
    assert afsd_consistency_loss._cut(torch.tensor([[0.0, 20.0], [4.0, 6.0]]), 20) is None
    assert afsd_consistency_loss._cut(torch.zeros(0, 2), 20) is None


def test_consistency_wants_both_sides_of_the_cut_alike_and_unlike_background() -> None:
    """By hand: the end features before the hole, the start features behind it, those where the hole starts."""
    run = networks.scattered(Afsd, SMALL)(torch.randn(1, 6, 16), FULL).runs[0]
    maps = type(run.maps)(*(torch.zeros_like(part) for part in run.maps))
    pieces = torch.tensor([[[0.0, 20.0], [36.0, 60.0], [21.0, 35.0]]])
    steps = torch.tensor([16])
    unlike = triplet(maps, pieces, steps, 4)
    assert unlike.item() == pytest.approx(1.2, abs=1e-3)  # margins 1, of all three maps
    for features, per_step in zip(maps, (1, 4, 4), strict=True):
        half = features.shape[1] // 2
        features[0, half:, 20 // per_step] = 3.0  # an end before the hole …
        features[0, :half, 36 // per_step] = 3.0  # … and behind it a start like it
    assert triplet(maps, pieces, steps, 4).item() == pytest.approx(0, abs=1e-5)


def test_consistency_is_learned_from_a_second_look_in_training_alone() -> None:
    network, loss = networks.scattered(Afsd, SMALL), AfsdLoss(AfsdLossConfig(), SMALL)
    targets = [Targets(torch.tensor([[1.0, 9.0], [13.0, 14.0]]), torch.tensor([0, 1]))]
    features = torch.randn(1, 6, 16)
    assert "consistency" not in loss(network(features, FULL), targets).parts
    outputs = network.train()(features, FULL)
    part = loss(outputs, targets).parts["consistency"]
    assert part.item() > 0
    network.zero_grad()
    part.backward()
    assert network.runs[0].stem.levels[0].conv.weight.grad.abs().sum() > 0


def test_presets_have_a_range_for_every_level() -> None:
    for name in ("thumos", "activitynet"):
        AfsdLoss(getattr(afsd_loss, name)(), getattr(afsd_config, name)())
    AfsdLoss(afsd_loss.compact(), afsd_config.compact(8, 2))
    with pytest.raises(ValueError, match="1 ranges_frames for 3 levels"):
        AfsdLoss(AfsdLossConfig(ranges_frames=((0.0, 4.0),)), SMALL)
    with pytest.raises(ValueError, match="min_iou is 2"):
        AfsdLossConfig(min_iou=2)
    with pytest.raises(ValueError, match="location_weight is -1"):
        AfsdLossConfig(location_weight=-1)


def test_training_lowers_the_loss_until_the_actions_are_found() -> None:
    torch.manual_seed(0)
    config = AfsdConfig((2,), 2, channels=16, groups=4, levels=3, length=32, distance_units_frames=(4.0, 8.0, 16.0))
    network, loss = Afsd(config), AfsdLoss(AfsdLossConfig(location_weight=1.0, relaxed=True), config)
    learn(network, loss, AROUND_STEPS, steps=40, rate=1e-2)
    assert_finds(network, AROUND_STEPS, score=0.5, within_steps=0.75)
