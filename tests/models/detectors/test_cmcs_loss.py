"""CMCS's loss against the authors' numbers, and its own laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.detectors.cmcs_loss import CmcsLoss, CmcsLossConfig, diversity, unequal_norms
from models.detectors.detector import Losses, Targets
from tests.models.detectors.test_cmcs import SETS, features, known, modalities, network
from tests.support import networks
from tests.support.golden import GoldenSet

NO_SPANS = torch.empty(0, 2)


def target(*labels: int, weight: float = 1.0) -> Targets:
    return Targets(NO_SPANS, torch.tensor(labels), weight)


def loss_of(made: nn.Module, **options: float) -> CmcsLoss:
    return CmcsLoss(CmcsLossConfig(**options), made.config)


def trained_on(numbers: GoldenSet) -> list[str]:
    return sorted({key.rsplit("/", 1)[0] for key in numbers.inputs if key.startswith("train/")})


def alone(made: nn.Module, values: Tensor, wanted: Targets) -> Losses:
    found: Losses = loss_of(made)(made(values, torch.ones(1, values.shape[2], dtype=torch.bool)), [wanted])
    return found


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_losses_and_gradients_equal_the_published_ones(folder: Path) -> None:
    numbers = known(folder)
    names = {key.split("/", 2)[2] for key in numbers.outputs if key.startswith("grad_norm/")}
    for modality in modalities(numbers):
        made = network(numbers, modality)
        for video in trained_on(numbers):
            weight = float(numbers.inputs[f"{video}/weight"])
            label = int(numbers.inputs[f"{video}/label"])
            losses = alone(made, features(numbers, video, modality), target(label, weight=weight))
            losses.total.backward()
            stored = f"loss/{modality}/{video.split('/')[1]}"
            expected = {key: numbers.outputs[f"{stored}/{key}"].item() for key in ("cls_weighted", "total")}
            raw = {key: weight * numbers.outputs[f"{stored}/{key}_raw"].item() for key in ("diversity", "norm")}
            assert losses.parts["label"].item() == pytest.approx(expected["cls_weighted"], rel=1e-5)
            assert losses.parts["diversity"].item() == pytest.approx(raw["diversity"], rel=1e-5)
            assert losses.parts["norm"].item() == pytest.approx(raw["norm"], rel=1e-5)
            assert losses.total.item() == pytest.approx(expected["total"], rel=1e-5)
        assert gradients(made, published=True).keys() == names
        for name, gradient in gradients(made, published=True).items():
            expected_norm = float(numbers.outputs[f"grad_norm/{modality}/{name}"])
            # Softmax undoes the bias of attention, whose gradient is rounding on both sides.
            least = 1e-5 if name == "att_head.bias" else 1e-6
            assert gradient.double().norm().item() == pytest.approx(expected_norm, rel=1e-3, abs=least), name


def gradients(made: nn.Module, *, published: bool = False) -> dict[str, Tensor]:
    from exporters.layouts.cmcs import LAYOUTS

    name_of = LAYOUTS["official"].published_name if published else str
    return {name_of(name): weight.grad for name, weight in made.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("variant", networks.SMALL_DETECTORS["cmcs"])
def test_a_padded_batch_is_the_sum_of_its_videos_and_so_are_its_gradients(variant: str) -> None:
    """Which is what accumulating gradients over single videos gives."""
    torch.manual_seed(0)
    lengths, targets = (9, 4, 1), [target(0), target(2, weight=0.5), target(1)]
    videos = [torch.randn(1, 6, length) for length in lengths]
    one_by_one, together = networks.detector("cmcs", variant), networks.detector("cmcs", variant)
    totals = [alone(one_by_one, video, wanted).total for video, wanted in zip(videos, targets, strict=True)]
    for total in totals:
        total.backward()
    padded = torch.stack([nn.functional.pad(video[0], (0, 9 - video.shape[2]), value=7.0) for video in videos])
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    total = loss_of(together)(together(padded, mask), targets).total
    total.backward()
    torch.testing.assert_close(total, torch.stack(totals).sum())
    expected = gradients(one_by_one)
    for name, gradient in gradients(together).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_video_of_two_labels_counts_as_two_videos_of_half_the_weight() -> None:
    made = networks.detector("cmcs", "early fusion")
    torch.manual_seed(0)
    video = torch.randn(1, 6, 7)
    both = alone(made, video, target(0, 0, 2)).total
    halves = [alone(made, video, target(label, weight=0.5)).total for label in (0, 2)]
    torch.testing.assert_close(both, halves[0] + halves[1])


def test_background_is_a_label_where_there_is_one() -> None:
    made = networks.detector("cmcs", "early fusion")
    assert alone(made, torch.randn(1, 6, 7), target(3)).total.isfinite()
    without = networks.detector("cmcs", "one wide branch without background, every snippet alike")
    with pytest.raises(ValueError, match="label 3 of a network with 3 outputs"):
        alone(without, torch.randn(1, 6, 7), target(3))


def test_regularisers_tell_branches_that_are_alike_and_branches_that_are_weak() -> None:
    torch.manual_seed(0)
    branch = torch.randn(1, 1, 8, 3)
    mask = torch.ones(1, 8, dtype=torch.bool)
    same = branch.expand(1, 3, 8, 3)
    torch.testing.assert_close(diversity(same, mask), torch.ones(1), rtol=1e-4, atol=1e-5)
    assert unequal_norms(same, mask).item() == pytest.approx(0, abs=1e-6)
    weak = torch.cat([branch, 0 * branch], dim=1)
    torch.testing.assert_close(unequal_norms(weak, mask), branch.abs().mean()[None] / 2)
    early, late = (torch.full((1, 1, 8, 3), -20.0) for _ in range(2))
    early[:, :, :4, 0], late[:, :, 4:, 0] = 20.0, 20.0
    early[:, :, 4:, 1], late[:, :, :4, 1] = 20.0, 20.0
    apart = torch.cat([early, late], dim=1)
    assert diversity(apart, mask).item() < 0.4
    assert not diversity(branch, mask).any()


def test_weights_of_regularisers_may_be_zero_but_not_negative() -> None:
    made = networks.detector("cmcs", "early fusion")
    video, mask = torch.randn(1, 6, 7), torch.ones(1, 7, dtype=torch.bool)
    plain = loss_of(made, diversity_weight=0.0, norm_weight=0.0)(made(video, mask), [target(1)])
    assert torch.equal(plain.total, plain.parts["label"])
    for name in ("diversity_weight", "norm_weight"):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            CmcsLossConfig(**{name: -1.0})


def test_numbers_in_padded_places_change_no_loss() -> None:
    made = networks.detector("cmcs", "late fusion")
    torch.manual_seed(0)
    values, mask = torch.randn(2, 6, 8), torch.arange(8) < torch.tensor([[8], [5]])
    noisy = torch.where(mask[:, None], values, 1e3)
    first, second = (loss_of(made)(made(one, mask), [target(0), target(3)]).total for one in (values, noisy))
    np.testing.assert_array_equal(first.detach(), second.detach())
