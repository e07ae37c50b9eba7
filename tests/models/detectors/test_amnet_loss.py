"""AMNet's loss: its terms by hand, what it is without a mask, and that the mask learns what is action."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.detectors.actionformer_loss import ActionFormerLoss, ranges_of
from models.detectors.amnet import Amnet, AmnetOutputs, components_of
from models.detectors.amnet_config import AmnetConfig
from models.detectors.amnet_loss import AmnetLoss, AmnetLossConfig, action_steps, balanced_cross_entropy
from models.detectors.detector import Targets
from tests.support import networks

SMALL = networks.AMNET
LOSS = AmnetLossConfig(ranges_of(3))
NOTHING = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def clips(config: AmnetConfig, seed: int, count: int = 4, length: int = 64) -> tuple[Tensor, Tensor, list[Targets]]:
    """Noise, in which an action's steps lean to one side in some of the channels."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(count, sum(config.input_channels), length, generator=draw)
    mask = torch.arange(length) < torch.tensor([[length], [length - 8]] * (count // 2))
    targets = []
    for clip in features:
        start = int(torch.randint(2, 20, (1,), generator=draw))
        length_steps = int(torch.randint(6, 24, (1,), generator=draw))
        clip[:3, start : start + length_steps] += 2
        targets.append(Targets(torch.tensor([[start, start + length_steps - 1.0]]), torch.tensor([1])))
    return features, mask, targets


def test_steps_inside_any_action_are_wanted_ends_included() -> None:
    found = action_steps(torch.tensor([[1.0, 2.5], [2.0, 4.0], [-3.0, 0.4]]), 7)
    assert found.tolist() == [True, True, True, True, True, False, False]
    assert not action_steps(NOTHING.spans, 7).any()


def test_both_sides_of_the_cross_entropy_weigh_the_same_however_rare_one_is() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, math.log(3), 50.0]])
    wanted = torch.tensor([[False, False, False, True, True]])
    real = torch.tensor([[True, True, True, True, False]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(4 / 3)
    torch.testing.assert_close(balanced_cross_entropy(logits, wanted, real).item(), expected, rtol=1e-6, atol=0)
    alone = balanced_cross_entropy(logits, torch.zeros_like(wanted), real & ~wanted)
    torch.testing.assert_close(alone.item(), 0.5 * math.log(2), rtol=1e-6, atol=0)


def outputs_like(network: Amnet, logits: Tensor, embedded: Tensor) -> AmnetOutputs:
    features, mask = torch.randn(len(logits), 6, logits.shape[2]), torch.ones(len(logits), logits.shape[2]).bool()
    return network(features, mask)._replace(mask_logits=logits, embedded=embedded)


@pytest.mark.parametrize("form", ["softmax", "independent"])
def test_a_mask_that_knows_costs_little_and_one_that_is_wrong_much(form: str) -> None:
    config = replace(SMALL, mask_form=form)
    network, loss = networks.scattered(Amnet, config), AmnetLoss(LOSS, config)
    targets = [Targets(torch.tensor([[3.0, 7.0]]), torch.tensor([0])), NOTHING]
    acting = torch.stack([action_steps(target.spans, 16) for target in targets])
    sign = torch.where(acting, 1.0, -1.0)
    logits = torch.stack([12 * sign, -12 * sign], dim=1)
    # Action along the first channel, background along the second: as different as can be.
    embedded = torch.stack([acting, ~acting, *[torch.zeros_like(acting)] * 6], dim=1).float()
    right = loss(outputs_like(network, logits, embedded), targets).parts
    wrong = loss(outputs_like(network, -logits, embedded), targets).parts
    assert right["mask"] < 1e-4
    assert wrong["mask"] > 10
    assert right["contrast"] < 1e-4
    torch.testing.assert_close(wrong["contrast"].item(), 1.0, rtol=0, atol=1e-4)  # apart, but the wrong way round
    same = loss(outputs_like(network, logits, torch.ones(2, 8, 16)), targets).parts
    torch.testing.assert_close(same["contrast"].item(), 1.0, rtol=0, atol=1e-4)
    lenient = AmnetLoss(replace(LOSS, contrast_margin=0.4), config)
    same = lenient(outputs_like(network, logits, torch.ones(2, 8, 16)), targets).parts
    torch.testing.assert_close(same["contrast"].item(), 0.6, rtol=0, atol=1e-4)


def test_the_total_weighs_its_parts() -> None:
    network = networks.scattered(Amnet, SMALL)
    features, mask, targets = clips(SMALL, 0)
    outputs = network(features, mask)
    detection = ActionFormerLoss(LOSS, SMALL)(outputs.detection, targets)
    found = AmnetLoss(replace(LOSS, mask_weight=0.5, contrast_weight=2.0), SMALL)(outputs, targets)
    assert set(found.parts) == {"classification", "regression", "mask", "contrast"}
    expected = detection.total + 0.5 * found.parts["mask"] + 2 * found.parts["contrast"]
    torch.testing.assert_close(found.total, expected)


def test_without_a_mask_it_is_the_loss_of_an_actionformer() -> None:
    config = replace(SMALL, mask="off")
    network = networks.scattered(Amnet, config)
    features, mask, targets = clips(config, 0)
    outputs = network(features, mask)
    found = AmnetLoss(LOSS, config)(outputs, targets)
    expected = ActionFormerLoss(LOSS, config)(outputs.detection, targets)
    assert torch.equal(found.total, expected.total)
    assert set(found.parts) == set(expected.parts)


def test_videos_without_an_action_or_without_a_snippet_have_a_finite_loss() -> None:
    network = networks.scattered(Amnet, SMALL)
    features, mask, _ = clips(SMALL, 0, count=2)
    mask[1] = False
    found = AmnetLoss(LOSS, SMALL)(network(features, mask), [NOTHING, NOTHING])
    assert all(torch.isfinite(part) for part in found.parts.values())
    found.total.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)


@pytest.mark.parametrize("form", ["softmax", "independent"])
def test_what_stands_in_padded_steps_costs_nothing(form: str) -> None:
    config = replace(SMALL, mask_form=form)
    network, loss = networks.scattered(Amnet, config), AmnetLoss(LOSS, config)
    features, mask, targets = clips(config, 0)
    outputs = network(features, mask)
    padded = ~mask[:, None]
    other = outputs._replace(
        mask_logits=outputs.mask_logits.masked_fill(padded, 7.0), embedded=outputs.embedded.masked_fill(padded, 7.0)
    )
    for part in ("mask", "contrast"):
        torch.testing.assert_close(loss(other, targets).parts[part], loss(outputs, targets).parts[part])


@pytest.mark.parametrize(
    ("form", "refinement", "groups"),
    [("softmax", "projected", "temporal"), ("independent", "scaled", "channel")],
)
def test_a_few_steps_of_training_teach_the_mask_what_is_action(form: str, refinement: str, groups: str) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, mask_form=form, refinement=refinement, groups=groups)
    network, loss = Amnet(config), AmnetLoss(LOSS, config)
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    told = []
    for step in range(40):
        features, mask, targets = clips(config, step)
        found = loss(network(features, mask), targets)
        optimiser.zero_grad()
        found.total.backward()
        optimiser.step()
        told.append(found.parts["mask"].item())
    assert sum(told[-5:]) < 0.6 * sum(told[:5])
    features, mask, targets = clips(config, 1000)
    with torch.inference_mode():
        shares = components_of(network.eval()(features, mask).mask_logits, form)[:, 0]
    acting = torch.stack([action_steps(target.spans, 64) for target in targets]) & mask
    assert shares[acting].mean() > shares[mask & ~acting].mean() + 0.4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mask_weight": -1.0}, "mask_weight is -1.0; a number from 0 on is needed"),
        ({"contrast_weight": -0.1}, "contrast_weight is -0.1"),
        ({"contrast_margin": 2.0}, "contrast_margin is 2.0; a cosine"),
    ],
)
def test_weights_that_make_no_sense_are_refused(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(LOSS, **options)
