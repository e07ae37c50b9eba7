"""RCL's loss: BMN's on a regular lattice, discounted over maps; labels of real-valued spans; thinned lattices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.detectors.bmn import BmnOutputs
from models.detectors.bmn_loss import BmnLoss, BmnLossConfig
from models.detectors.detector import Targets
from models.detectors.rcl import Lattice, Rcl, RclOutputs
from models.detectors.rcl_config import RclConfig
from models.detectors.rcl_loss import RclLoss, RclLossConfig
from tests.models.detectors.test_bmn_loss import ACTIONS, assert_finds_both
from tests.support import learning, networks

REGULAR = replace(networks.RCL, sampling="regular", rows=16, longest=16)
TARGETS = [
    Targets(torch.tensor([[1.0, 5.0], [6.0, 9.5]]), torch.tensor([0, 0])),
    Targets(torch.tensor([[0.0, 8.0]]), torch.tensor([0])),
]


def outputs_of(
    config: RclConfig, maps: int, real: tuple[int, int] = (16, 16), spans: Tensor | None = None
) -> RclOutputs:
    torch.manual_seed(0)
    lattice = Lattice(config)
    mask = torch.arange(16) < torch.tensor(real)[:, None]
    spans = lattice.spans if spans is None else spans
    answers = tuple(torch.randn(2, 2, config.rows, 16) for _ in range(maps))
    return RclOutputs(torch.randn(2, 2, 16), answers, spans, lattice.present(spans, mask) * lattice.sampled, mask)


@pytest.mark.parametrize("real", [(16, 16), (16, 9)])
def test_one_map_of_a_regular_lattice_costs_what_bmns_does(real: tuple[int, int]) -> None:
    outputs = outputs_of(REGULAR, 1, real)
    torch.manual_seed(1)
    ours = RclLoss(RclLossConfig(), REGULAR)(outputs, TARGETS)
    torch.manual_seed(1)
    theirs = BmnLoss(BmnLossConfig(), networks.BMN)(
        BmnOutputs(outputs.boundaries, outputs.answers[0], outputs.mask), TARGETS
    )
    torch.testing.assert_close(ours.total, theirs.total)
    torch.testing.assert_close(ours.parts["boundary"], theirs.parts["boundary"])


def test_later_maps_weigh_more() -> None:
    outputs = outputs_of(REGULAR, 3)
    loss = RclLoss(RclLossConfig(discount=0.5, boundary_weight=0.0), REGULAR)
    torch.manual_seed(1)
    total = loss(outputs, TARGETS).total
    torch.manual_seed(1)
    asked = loss.asked(outputs, TARGETS)
    first, second, third = (loss.map_loss(answers, asked) for answers in outputs.answers)
    torch.testing.assert_close(total, first / 4 + second / 2 + third)


def test_labels_are_those_of_the_very_spans() -> None:
    spans = torch.zeros(2, 12, 16, 2)
    spans[0, 3, 2], spans[1, 3, 2] = torch.tensor([1.5, 5.0]), torch.tensor([7.25, 8.25])
    outputs = outputs_of(networks.RCL, 1, spans=spans)
    overlaps = RclLoss(RclLossConfig(), networks.RCL).asked(outputs, TARGETS).overlaps
    assert overlaps[0, 3, 2].item() == pytest.approx(3.5 / 4)
    assert overlaps[1, 3, 2].item() == pytest.approx(0.75 / 8.25)
    assert not overlaps[0, 4].any()


def test_longer_spans_are_asked_at_fewer_starts() -> None:
    config = replace(networks.RCL, length=16)
    outputs = outputs_of(config, 1)
    torch.manual_seed(1)
    loss = RclLoss(RclLossConfig(), config)
    kept = torch.stack([loss.asked(outputs, TARGETS).valid for _ in range(400)]).float().mean(dim=0)
    lengths = outputs.spans[0, :, 0, 1] - outputs.spans[0, :, 0, 0]
    for row, length in enumerate(lengths.tolist()):
        there = outputs.present[:, row] > 0
        assert kept[:, row][there].mean().item() == pytest.approx(1 / length, abs=0.03)
        assert not kept[:, row][~there].any()
    whole = RclLoss(RclLossConfig(thin=False), config).asked(outputs, TARGETS).valid
    assert torch.equal(whole, outputs.present > 0)


def test_a_window_without_actions_stays_finite() -> None:
    nothing = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    outputs = outputs_of(networks.RCL, 2, (16, 0))
    assert RclLoss(RclLossConfig(), networks.RCL)(outputs, [nothing, nothing]).total.isfinite()


def test_a_discount_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="discount is 0"):
        RclLossConfig(discount=0)


@pytest.mark.parametrize("host", ["bmn", "gtad"])
def test_a_network_learns_to_find_two_actions(host: Any) -> None:
    """One window shows too little of long spans to leave most of them out. Lengths of this lattice are 29 % apart."""
    config = replace(networks.RCL, input_channels=(2,), length=32, host=host, graph_groups=2, graph_width=4)
    torch.manual_seed(0)
    network = Rcl(config)
    loss = RclLoss(RclLossConfig(zero_is_low=True, thin=False), config)
    first, last = learning.learn(network, loss, ACTIONS, steps=200)
    assert last.total < first.total / 2
    assert_finds_both(network, within_steps=1.6)
