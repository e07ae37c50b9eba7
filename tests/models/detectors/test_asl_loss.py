"""ASL's loss: its Gaussians against the authors' challenge code, its parts against cases worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.detectors import asl_loss
from models.detectors.actionformer import ActionFormerOutputs
from models.detectors.actionformer_loss import ActionFormerLoss, ActionFormerLossConfig, ranges_of
from models.detectors.asl import Asl, AslOutputs
from models.detectors.asl_loss import AslLoss, AslLossConfig, Evaluator, Gaussians
from models.detectors.detector import Targets
from tests.support import golden, networks
from tests.support.learning import assert_finds, learn

OFF = AslLossConfig(ranges_of(2), class_sensitivity=False, instance_sensitivity=False, contrastive=False)
# The rows of the paper's ablation.
ROWS: dict[str, dict[str, bool]] = {
    "baseline": {},
    "+Inst": {"instance_sensitivity": True},
    "+Class": {"class_sensitivity": True},
    "+ASL": {"instance_sensitivity": True, "class_sensitivity": True},
    "+ASCL": {"instance_sensitivity": True, "class_sensitivity": True, "contrastive": True},
}
NAMES = {
    "cls": ("mu", "sigma"),
    "left": ("mu_reg_left", "sigma_reg_left"),
    "right": ("mu_reg_right", "sigma_reg_right"),
}


class Case(NamedTuple):
    network: nn.Module
    outputs: AslOutputs
    targets: list[Targets]


def case() -> Case:
    """Two videos of 32 steps, one of which ends early; a batch of three and of two actions."""
    network = networks.detector("asl", "local")
    torch.manual_seed(5)
    mask = torch.arange(32) < torch.tensor([[32], [25]])
    outputs = network(torch.randn(2, 6, 32), mask)
    targets = [
        Targets(torch.tensor([[1.0, 4.5], [6.0, 20.0], [22.2, 30.0]]), torch.tensor([0, 1, 0])),
        Targets(torch.tensor([[3.0, 9.0], [8.5, 24.0]]), torch.tensor([2, 1])),
    ]
    return Case(network, outputs, targets)


def loss_of(**changes: Any) -> AslLoss:
    torch.manual_seed(7)
    return AslLoss(replace(OFF, **changes), networks.ASL)


# The authors' code.


def published_loss() -> tuple[golden.GoldenSet, AslLoss, AslOutputs, list[Targets]]:
    known = golden.read("asl_ego4d")
    options, classes = known.config, known.config["num_classes"]
    network = replace(networks.ASL, num_classes=classes, windows=(5,) * len(options["strides"]))
    config = AslLossConfig(
        tuple((float(low), float(high)) for low, high in options["regression_range"]),
        center_radius=options["center_sample_radius"],
        regression_weight=options["loss_weight"],
        label_smoothing=options["label_smoothing"],
        initial_positives=options["init_loss_norm"],
        instance_sensitivity=False,
        contrastive=False,
        gaussian_form="released",
        least_weight=0.0,
    )
    loss = AslLoss(config, network)
    assert loss.gaussians is not None
    with torch.no_grad():
        for row, (mean, spread) in enumerate(NAMES.values()):
            loss.gaussians.means[row] = known.state[f"sens/{mean}"][:, 0]
            loss.gaussians.spreads[row] = known.state[f"sens/{spread}"][:, 0]
    lengths = [options["max_seq_len"] // stride for stride in options["strides"]]

    def levels(values: np.ndarray) -> tuple[Tensor, ...]:
        return torch.from_numpy(values).split(lengths, dim=1)

    logits, offsets = (levels(known.inputs[name]) for name in ("logits", "offsets"))
    masks = levels(known.outputs["valid_mask"])
    outputs = AslOutputs(logits, offsets, masks, tuple(torch.zeros(2, 8, length) for length in lengths))
    targets = [
        Targets(*(torch.from_numpy(known.inputs[f"gt/{video}/{part}"]) for part in ("segments", "labels")))
        for video in range(2)
    ]
    return known, loss, outputs, targets


def test_points_answer_as_published() -> None:
    known, loss, outputs, targets = published_loss()
    wanted = loss.base.wanted(outputs, targets)
    np.testing.assert_array_equal(wanted.points, known.outputs["points"])
    for video in range(2):
        np.testing.assert_array_equal(wanted.classes[video], known.outputs[f"label/{video}/cls"])


def test_class_sensitivities_equal_the_published_ones() -> None:
    known, loss, outputs, targets = published_loss()
    wanted, actions = loss.base.wanted(outputs, targets), asl_loss.actions_of(targets)
    videos, points = wanted.positive.nonzero(as_tuple=True)
    owners = (actions.counts.cumsum(0) - actions.counts)[videos] + wanted.actions[wanted.positive]
    assert loss.gaussians is not None
    found = loss._of_class(loss.gaussians, wanted.points[points], owners, actions).detach()
    naming, left, right = (
        np.stack([known.outputs[f"label/{video}/p_{kind}"] for video in range(2)])[wanted.positive]
        for kind in ("cls", "left", "right")
    )
    np.testing.assert_allclose(found[0], naming, atol=1e-6)
    np.testing.assert_allclose(found[1], (left + right) / 2 * naming, atol=1e-6)


def test_gaussians_equal_the_published_ones() -> None:
    known = golden.read("asl_ego4d")
    made = Gaussians(1)
    with torch.no_grad():
        made.means[:] = 0.1
        made.spreads[:] = 0.8
    places = torch.from_numpy(known.inputs["d_over_len"])
    found = made(places, torch.zeros(len(places), dtype=torch.int64)).detach()
    np.testing.assert_allclose(found[0], known.outputs["gauss/normal(mu=0.1,sigma=0.8)"], atol=1e-6)


def test_losses_and_gradients_equal_the_published_ones() -> None:
    known, loss, outputs, targets = published_loss()
    found = loss(outputs, targets)
    expected = {part: float(known.outputs[f"loss/{part}_loss"]) for part in ("cls", "reg", "al", "final")}
    np.testing.assert_allclose(found.parts["classification"].item(), expected["cls"], rtol=1e-5)
    np.testing.assert_allclose(found.parts["regression"].item(), expected["reg"], rtol=1e-5)
    # Their challenge entry adds a term on whole videos, which is no part of the paper.
    rest = expected["final"] - known.config["al_loss_weight"] * expected["al"]
    np.testing.assert_allclose(found.total.item(), rest, rtol=1e-5)
    np.testing.assert_allclose(loss.base.normaliser.item(), known.outputs["loss/normalizer_after"], rtol=1e-12)
    found.total.backward()
    assert loss.gaussians is not None
    for row, names in enumerate(NAMES.values()):
        for weight, name in zip((loss.gaussians.means, loss.gaussians.spreads), names, strict=True):
            gradient = known.outputs[f"grad/{name}"][:, 0]
            np.testing.assert_allclose(weight.grad[row], gradient, rtol=1e-3, atol=1e-7, err_msg=name)


# ActionFormer's loss is a special case.


def actionformers(outputs: AslOutputs, targets: list[Targets]) -> Any:
    return ActionFormerLoss(ActionFormerLossConfig(ranges_of(2)), networks.ASL)(
        ActionFormerOutputs(*outputs[:3]), targets
    )


def test_with_everything_off_it_is_actionformers_loss_to_the_bit() -> None:
    _, outputs, targets = case()
    found, expected = loss_of()(outputs, targets), actionformers(outputs, targets)
    assert torch.equal(found.total, expected.total)
    assert found.parts.keys() == expected.parts.keys()
    assert all(torch.equal(found.parts[part], value) for part, value in expected.parts.items())
    assert list(loss_of().parameters()) == []


@pytest.mark.parametrize("row", ["+Class", "+ASL"])
def test_with_weights_of_one_it_is_actionformers_loss_to_the_bit(row: str) -> None:
    """Gaussians so wide that they are 1 everywhere, one end's so far off that it is 0; evaluators that answer 0."""
    _, outputs, targets = case()
    loss = loss_of(**ROWS[row])
    assert loss.gaussians is not None
    with torch.no_grad():
        loss.gaussians.spreads[:2] = 1e6
        loss.gaussians.means[2] = 1e6
        for evaluator in (loss.class_evaluator, loss.extent_evaluator):
            if evaluator is not None:
                evaluator.answer.bias.fill_(-1e4)
    found, expected = loss(outputs, targets), actionformers(outputs, targets)
    for part, value in expected.parts.items():
        assert torch.equal(found.parts[part], value)
    assert torch.equal(found.total, expected.total + found.parts.get("quality", torch.zeros(())))


def test_other_weights_change_it() -> None:
    _, outputs, targets = case()
    expected = actionformers(outputs, targets)
    for row in ("+Inst", "+Class"):
        found = loss_of(**ROWS[row])(outputs, targets)
        for part, value in expected.parts.items():
            assert not torch.isclose(found.parts[part], value, rtol=1e-3), (row, part)


# Switches.


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_ablation_has_its_parts_and_trains_all_of_them(row: str) -> None:
    network, outputs, targets = case()
    loss = loss_of(**ROWS[row])
    found = loss(outputs, targets)
    expected = {"classification", "regression"}
    expected |= {"quality"} if ROWS[row].get("instance_sensitivity") else set()
    expected |= {"contrast"} if ROWS[row].get("contrastive") else set()
    assert set(found.parts) == expected
    found.total.backward()
    for name, weight in (*loss.named_parameters(), *network.named_parameters()):
        if not name.endswith("attn.key.bias"):
            assert weight.grad is not None, name
            assert weight.grad.any(), name


def test_the_default_is_the_whole_paper() -> None:
    for preset in (asl_loss.thumos, asl_loss.activitynet, asl_loss.epic_kitchens, asl_loss.ego4d):
        config = preset()
        assert (config.class_sensitivity, config.instance_sensitivity, config.contrastive) == (True, True, True)
        assert config.gaussian_form == "paper"


def test_the_total_is_the_sum_of_its_parts() -> None:
    _, outputs, targets = case()
    found = loss_of(**ROWS["+ASCL"])(outputs, targets)
    parts = {name: part.item() for name, part in found.parts.items()}
    expected = parts["classification"] + parts["regression"] + parts["quality"] + 0.3 * parts["contrast"]
    assert found.total.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("detached", [True, False])
def test_predicted_quality_is_trained_by_the_weight_only_where_asked(detached: bool) -> None:
    _, outputs, targets = case()
    loss = loss_of(instance_sensitivity=True, detach_quality=detached)
    parts = loss(outputs, targets).parts
    (parts["classification"] + parts["regression"]).backward()
    assert all((weight.grad is None) == detached for weight in loss.parameters())


def test_quality_does_not_train_the_heads_that_it_judges() -> None:
    network, outputs, targets = case()
    loss_of(instance_sensitivity=True)(outputs, targets).parts["quality"].backward()
    touched = {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}
    assert touched == {"embed", "stem", "branch"}


def test_weights_have_a_least_value() -> None:
    _, outputs, targets = case()
    loss = loss_of(class_sensitivity=True, least_weight=0.5)
    assert loss.gaussians is not None
    with torch.no_grad():
        loss.gaussians.means.fill_(1e6)  # nothing matters
    assert torch.isclose(
        loss(outputs, targets).parts["regression"], 0.5 * actionformers(outputs, targets).parts["regression"]
    )


# Class-level sensitivity.


def test_at_first_the_centre_matters_most_to_name_an_action_and_the_ends_to_find_it() -> None:
    places = torch.linspace(-0.5, 0.5, 11)
    naming, start, end = Gaussians(4)(places, torch.full((11,), 2)).detach()
    assert [int(part.argmax()) for part in (naming, start, end)] == [5, 0, 10]
    assert [float(part.max()) for part in (naming, start, end)] == [1.0, 1.0, 1.0]
    torch.testing.assert_close(naming, torch.exp(-(places**2) / 2))
    torch.testing.assert_close(start, end.flip(0))


def test_the_paper_adds_both_ends_where_the_release_takes_their_mean_and_the_class() -> None:
    actions = asl_loss.actions_of([Targets(torch.tensor([[4.0, 14.0]]), torch.tensor([1]))])
    points, owner = torch.tensor([[6.5, 0.0, 99.0, 2.0]]), torch.zeros(1, dtype=torch.int64)
    made = {}
    for form in ("paper", "released"):
        loss = loss_of(class_sensitivity=True, gaussian_form=form)
        assert loss.gaussians is not None
        made[form] = loss._of_class(loss.gaussians, points, owner, actions).detach()[:, 0].tolist()
    place = -0.25
    gaussian = [np.exp(-((place - mean) ** 2) / 2) for mean in (0, -0.5, 0.5)]
    assert made["paper"] == pytest.approx([gaussian[0], gaussian[1] + gaussian[2]], rel=1e-5)
    mirrored = [np.exp(-((-place / 2 - mean) ** 2) / 2) for mean in (0, -0.5, 0.5)]
    assert made["released"] == pytest.approx([mirrored[0], mirrored[0] * (mirrored[1] + mirrored[2]) / 2], rel=1e-5)


# Instance-level sensitivity.


def crops(outputs: AslOutputs, targets: list[Targets], loss: AslLoss) -> tuple[Any, Any, Any]:
    wanted, actions = loss.base.wanted(outputs, targets), asl_loss.actions_of(targets)
    videos, points = wanted.positive.nonzero(as_tuple=True)
    owners = (actions.counts.cumsum(0) - actions.counts)[videos] + wanted.actions[wanted.positive]
    return wanted, actions, asl_loss.crops_of(outputs, wanted, actions, owners, points)


def test_evaluators_see_an_action_and_nothing_beside_it() -> None:
    """The second action of the first video is 6 to 20, and only the coarse level, of stride 2, answers for it."""
    _, outputs, targets = case()
    loss = loss_of(instance_sensitivity=True)
    _, actions, found = crops(outputs, targets, loss)
    answers = loss._of_crops(outputs, found, actions)
    mine = found.actions == 1
    assert (found.points[mine] - 32).tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    crop = outputs.features[1][:1, :, 3:11]
    for row, evaluator in enumerate((loss.class_evaluator, loss.extent_evaluator)):
        assert isinstance(evaluator, Evaluator)
        alone = evaluator(crop, torch.ones(1, 1, 8))[0]
        torch.testing.assert_close(answers[row, mine], alone, rtol=1e-5, atol=1e-6)


def test_every_positive_point_is_in_a_crop_of_its_action() -> None:
    _, outputs, targets = case()
    wanted, actions, found = crops(outputs, targets, loss_of())
    inside = set(zip(found.actions.tolist(), found.points.tolist(), strict=True))
    first = (actions.counts.cumsum(0) - actions.counts).tolist()
    positive = wanted.positive.nonzero().tolist()
    owners = {(first[video] + int(wanted.actions[video, point]), point) for video, point in positive}
    assert owners
    assert owners <= inside
    assert found.points.max() < 48
    for action, point in inside:
        start, end = actions.spans[action].tolist()
        assert start <= float(wanted.points[point, 0]) <= end


def test_quality_is_the_classs_probability_and_the_overlap() -> None:
    loss = loss_of()
    targets = [Targets(torch.tensor([[2.0, 6.0]]), torch.tensor([1]))]
    logits = torch.zeros(1, 12, 3)
    logits[0, 4, 1] = 2.0
    offsets = torch.ones(1, 12, 2)
    offsets[0, 4] = torch.tensor([1.0, 4.0])  # 3 to 8, of which 3 are shared and 6 covered by either
    outputs = AslOutputs(
        logits.split([8, 4], dim=1),
        offsets.split([8, 4], dim=1),
        (torch.ones(1, 8, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)),
        (torch.zeros(1, 8, 8), torch.zeros(1, 8, 4)),
    )
    wanted, actions, found = crops(outputs, targets, loss)
    quality = asl_loss.qualities(outputs, wanted, found, actions)
    at = found.points.tolist().index(4)
    assert quality[:, at].tolist() == pytest.approx([1 / (1 + np.exp(-2)), 3 / 6])
    at = found.points.tolist().index(2)  # 1 to 3 at the action's very start
    assert quality[:, at].tolist() == pytest.approx([0.5, 1 / 5])


# Contrast.


def contrasted(features: Tensor, targets: list[Targets], mask: Tensor | None = None, **changes: Any) -> Tensor:
    """Of level 1 (B, 8, T) alone; the other level is empty of meaning."""
    batch, _, steps = features.shape
    mask = torch.ones(batch, steps, dtype=torch.bool) if mask is None else mask
    levels = (steps, steps // 2)
    outputs = AslOutputs(
        tuple(torch.zeros(batch, length, 3) for length in levels),
        tuple(torch.ones(batch, length, 2) for length in levels),
        (mask, mask[:, ::2]),
        (features, torch.zeros(batch, 8, levels[1])),
    )
    loss = loss_of(contrastive=True, **changes)
    assert loss.gaussians is not None
    wanted, actions = loss.base.wanted(outputs, targets), asl_loss.actions_of(targets)
    return asl_loss.contrast(outputs, wanted, actions, loss.gaussians, loss.config)


def test_contrast_of_two_classes_equals_a_case_worked_by_hand() -> None:
    """Actions of 5 steps at 4 to 8 and 14 to 18; with a reach of 0.2 windows are a step to either side.

    Features are one unit vector per action and per background, so all means are these vectors.
    """
    features = torch.zeros(1, 8, 24)
    features[0, 0, 4:9], features[0, 1, 14:19] = 1, 1
    features[0, 2, [3, 9]], features[0, 3, [13, 19]] = 1, 1
    targets = [Targets(torch.tensor([[4.0, 8.0], [14.0, 18.0]]), torch.tensor([0, 1]))]
    found = contrasted(features, targets, temperature=1.0)
    # Each anchor: itself aside, one positive at similarity 1; two of the other class and two backgrounds at 0.
    expected = -np.log(np.e / (np.e + 4))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_contrast_falls_when_actions_of_a_class_agree() -> None:
    targets = [Targets(torch.tensor([[4.0, 8.0], [14.0, 18.0]]), torch.tensor([1, 1]))]
    apart = torch.zeros(1, 8, 24)
    apart[0, 0, 4:9], apart[0, 1, 14:19] = 1, 1
    apart[0, 2, [3, 9, 13, 19]] = 1
    together = apart.clone()
    together[0, 1, 14:19], together[0, 0, 14:19] = 0, 1
    assert contrasted(together, targets).item() < contrasted(apart, targets).item()


def test_contrast_weighs_steps_around_those_that_matter_most() -> None:
    """Of 11 steps at 4 to 14, a reach of 0.1 is a step to either side: 8 to 10 name it, 4, 5, 13, 14 bound it."""
    targets = [Targets(torch.tensor([[4.0, 14.0]]), torch.tensor([2]))]
    actions = asl_loss.actions_of(targets)
    points = torch.tensor([[float(step), 0.0, 4.0, 1.0] for step in range(20)])
    valid = torch.arange(20)[None] < 16
    weights, backed = asl_loss._windows(points, valid, actions, Gaussians(3), reach=0.1)
    naming, ends, beside = weights.detach()[0]
    assert naming.nonzero().flatten().tolist() == [8, 9, 10]
    assert ends.nonzero().flatten().tolist() == [4, 5, 13, 14]
    assert beside.nonzero().flatten().tolist() == [3, 15]
    assert backed.tolist() == [True]
    places = torch.tensor([-0.1, 0.0, 0.1])
    torch.testing.assert_close(naming[8:11], torch.exp(-(places**2) / 2) / 3)
    assert ends[4].item() == pytest.approx((1 + np.exp(-0.5)) / 4)
    assert beside[3].item() == 0.5


def test_contrast_sees_no_padded_step() -> None:
    torch.manual_seed(2)
    features = torch.randn(1, 8, 24)
    targets = [Targets(torch.tensor([[4.0, 9.0], [14.0, 23.0]]), torch.tensor([0, 1]))]
    mask = torch.arange(24)[None] < 18
    noisy = torch.where(mask[:, None], features, 1e3)
    assert torch.equal(contrasted(features, targets, mask), contrasted(noisy, targets, mask))


# Batches that have little to say.


def test_a_batch_without_actions_still_trains_the_classifier() -> None:
    network, outputs, _ = case()
    none = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    loss = loss_of(**ROWS["+ASCL"])
    found = loss(outputs, [none, none])
    assert {name: part.item() for name, part in found.parts.items() if name != "classification"} == {
        "regression": 0,
        "quality": 0,
        "contrast": 0,
    }
    found.total.backward()
    assert network.classify.answer.conv.weight.grad.any()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in loss.parameters())


def test_an_action_between_two_steps_or_beside_the_video_breaks_nothing() -> None:
    network, outputs, _ = case()
    odd = Targets(torch.tensor([[3.2, 3.7], [40.0, 50.0], [5.0, 5.0]]), torch.tensor([0, 1, 2]))
    loss = loss_of(**ROWS["+ASCL"])
    found = loss(outputs, [odd, odd])
    found.total.backward()
    assert found.total.isfinite()
    for weight in (*loss.parameters(), *network.parameters()):
        assert weight.grad is None or weight.grad.isfinite().all()


def test_training_lowers_every_part_of_the_loss_until_the_actions_are_found() -> None:
    torch.manual_seed(0)
    config = replace(networks.ASL, input_channels=(2,), num_classes=2, channels=16, neck_channels=16, head_channels=16)
    network, loss = Asl(config), AslLoss(replace(OFF, **ROWS["+ASCL"], initial_positives=4.0), config)
    first, last = learn(network, loss)
    assert {name for name, part in last.parts.items() if part > 0.5 * first.parts[name]} == set()
    assert_finds(network, score=0.5, within_steps=0.75)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reach": 0.0}, r"reach is 0\.0"),
        ({"temperature": 0.0}, r"temperature is 0\.0"),
        ({"least_weight": -1.0}, r"least_weight is -1\.0"),
        ({"contrast_weight": -0.3}, r"contrast_weight is -0\.3"),
        ({"evaluator_layers": 0}, "evaluator_layers is 0"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OFF, **change)
