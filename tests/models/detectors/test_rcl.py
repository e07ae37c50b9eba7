"""RCL's network: its lattices, what arbitrary spans are made of, refinement by number of steps; and its hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.detectors import rcl_config
from models.detectors.rcl import Lattice, Rcl, RclOutputs
from models.detectors.rcl_config import RclConfig
from tests.support import networks

SMALL = networks.RCL
REGULAR = replace(SMALL, sampling="regular", rows=16, longest=16)


def given(batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(batch, 6, 16), torch.ones(batch, 16, dtype=torch.bool)


def made(config: RclConfig) -> Rcl:
    network: Rcl = networks.scattered(Rcl, config)
    return network


def lengths_of(config: RclConfig) -> Tensor:
    spans = Lattice(config).spans[0]
    assert torch.equal(spans[..., 0], torch.arange(float(config.length)).expand(config.rows, -1))
    lengths = spans[..., 1] - spans[..., 0]
    torch.testing.assert_close(lengths, lengths[:, :1].expand_as(lengths), atol=1e-4, rtol=0)
    return lengths[:, 0]


def test_a_regular_lattice_is_the_grid_itself() -> None:
    lattice = Lattice(REGULAR)
    torch.testing.assert_close(lengths_of(REGULAR), torch.arange(1.0, 17.0))
    assert lattice.place.unflatten(0, (16, 16))[REGULAR.shape.fits()].tolist() == [
        16 * duration + start for duration in range(16) for start in range(16 - duration)
    ]
    inside = lattice.coordinates[0][:, REGULAR.shape.fits()]
    assert not inside.any()
    assert lattice.sampled.all()


def test_a_scale_invariant_lattice_has_lengths_of_equal_ratios() -> None:
    lengths = lengths_of(rcl_config.activitynet())
    assert lengths[0].item() == pytest.approx(1)
    assert lengths[-1].item() == pytest.approx(100, rel=1e-5)
    torch.testing.assert_close(lengths[1:] / lengths[:-1], torch.full((99,), 100 ** (1 / 99)), rtol=1e-4, atol=0)
    assert lengths_of(rcl_config.thumos())[-1].item() == pytest.approx(64, rel=1e-5)


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [("sparse-half", [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]), ("sparse-levels", [1, 1, 2, 2, 4, 4, 8, 8, 16, 16])],
)
def test_sparse_lattices_ask_longer_spans_at_fewer_starts(sampling: Any, shares: list[int]) -> None:
    config = replace(SMALL, sampling=sampling, length=32, rows=10, longest=30)
    sampled = Lattice(config).sampled
    for row, share in zip(sampled, shares, strict=True):
        assert row.nonzero().flatten().tolist() == list(range(0, 32, share))
    network = made(replace(config, length=32))
    features, mask = torch.randn(1, 6, 32), torch.ones(1, 32, dtype=torch.bool)
    with torch.inference_mode():
        scores = network.decode(network(features, mask)).scores
    assert torch.equal(scores[0, :, 0].view(10, 32) > 0, (sampled > 0) & (Lattice(config).spans[0, ..., 1] <= 32))


def test_a_span_has_the_features_of_the_nearest_cell_and_its_own_coordinates() -> None:
    lattice = Lattice(SMALL)
    spans = torch.tensor([[[2.3, 6.1], [2.6, 5.9], [9.4, 16.0], [-0.2, 0.3], [11.5, 16.0]]])
    place, coordinates = lattice.anchor(spans)
    cells = [(4, 2), (3, 3), (7, 9), (1, 0), (4, 12)]  # length, start
    assert place[0].tolist() == [16 * (length - 1) + start for length, start in cells]
    nearest = torch.tensor([[start, start + length] for length, start in cells]).float()
    torch.testing.assert_close(coordinates[0], spans[0] - nearest)
    _, absolute = Lattice(replace(SMALL, coordinates="absolute")).anchor(spans)
    torch.testing.assert_close(absolute[0, 0], torch.tensor([4.2, 3.8]) / 16)


def test_training_moves_every_span_within_its_cell() -> None:
    torch.manual_seed(0)
    for config in (SMALL, REGULAR):
        lattice = Lattice(config)
        drawn = lattice.drawn(40)
        start, length = drawn[..., 0], drawn[..., 1] - drawn[..., 0]
        centre = lattice.spans[0, ..., 0]
        assert ((start - centre).abs() <= 0.5).all()
        assert start.std(dim=0)[:, 1:].min() > 0.2
        lengths = lengths_of(config)
        middle = (lengths[1:] + lengths[:-1]) / 2 if config is REGULAR else (lengths[1:] * lengths[:-1]).sqrt()
        assert (length[:, 1:] >= middle[None, :, None] - 1e-4).all()
        assert (length[:, :-1] <= middle[None, :, None] + 1e-4).all()


def test_arbitrary_spans_may_be_asked_for() -> None:
    """Two members of a batch are asked different spans; at those of the lattice the answers are the network's own."""
    network = made(SMALL)
    features, mask = given()
    with torch.inference_mode():
        own = network(features, mask)
        moved = network.lattice.drawn(1)
        both = network.ask(features, mask, torch.cat([network.lattice.spans, moved]))
        alone = network.ask(features[1:], mask[1:], moved)
    torch.testing.assert_close(both.answers[-1][0], own.answers[-1][0])
    torch.testing.assert_close(both.answers[-1][1], alone.answers[-1][0])
    assert not torch.allclose(both.answers[-1][1], own.answers[-1][1], atol=1e-3)
    found = network.decode(both)
    torch.testing.assert_close(found.spans[1], moved[0].flatten(0, 1))


def test_answers_change_with_spans_between_two_cells() -> None:
    """Within one cell of the grid features stay, and coordinates alone tell spans apart."""
    network = made(replace(SMALL, iterations=0, head_layers=0))
    features, mask = given(1)
    spans = network.lattice.spans.clone()
    spans[..., 1] = spans[..., 0] + 4
    shifts = (-0.3, 0.0, 0.3)
    with torch.inference_mode():
        low, middle, high = (network.ask(features, mask, spans + shift).answers[0][0, :, 3, 5] for shift in shifts)
    assert not torch.allclose(low, high, atol=1e-4)
    assert not torch.allclose(low, middle, atol=1e-4)


def test_both_parts_of_the_first_convolution_are_one_over_features_and_coordinates() -> None:
    network = made(replace(SMALL, iterations=0))
    features, mask = given()
    spans = network.lattice.drawn(2)
    place, coordinates = network.lattice.anchor(spans)
    with torch.inference_mode():
        base = network.base(features, mask[:, None].float())
        reduced = F.relu(network.reduce(base.features, mask[:, None].float()))
        grid = network.matching(reduced, torch.relu).flatten(2)
        taken = torch.stack(
            [video[:, where.flatten()].unflatten(1, (12, 16)) for video, where in zip(grid, place, strict=True)]
        )
        joined = torch.cat([taken, coordinates.movedim(3, 1)], dim=1)
        weight = torch.cat([network.narrow.weight, network.locate.weight], dim=1)
        expected = network.head(F.relu(F.conv2d(joined, weight, network.locate.bias)))
        found = network.ask(features, mask, spans).answers[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_steps_at_inference_are_the_configurations_or_as_many_as_in_training() -> None:
    features, mask = given()
    trained = made(replace(SMALL, iterations=5))
    with torch.inference_mode():
        everything = trained(features, mask).answers
        assert len(everything) == 6
        for steps in (0, 1, 3, 8):
            fewer = Rcl(replace(SMALL, iterations=5, inference_iterations=steps)).eval()
            fewer.load_state_dict(trained.state_dict())
            answers = fewer(features, mask).answers
            assert len(answers) == steps + 1
            torch.testing.assert_close(answers[: len(everything)], everything[: len(answers)])
    learning = Rcl(replace(SMALL, iterations=5, inference_iterations=2)).train()
    assert len(learning(features, mask).answers) == 6


def test_a_score_is_the_product_of_both_answers_within_the_real_steps() -> None:
    network = made(SMALL)
    features, mask = given()
    mask[1, 9:] = False
    with torch.inference_mode():
        outputs = network(features, mask)
        found = network.decode(outputs)
    expected = outputs.answers[-1].sigmoid().prod(dim=1)
    ends = network.lattice.spans[0, ..., 1]
    for video, real in enumerate((16, 9)):
        score = found.scores[video, :, 0].view(12, 16)
        torch.testing.assert_close(score, expected[video] * (ends <= real + 1e-4))
        assert score.any()


def test_boundaries_have_no_part_in_scores() -> None:
    network = made(SMALL)
    outputs: RclOutputs = network(*given())
    other = outputs._replace(boundaries=outputs.boundaries + 5)
    assert torch.equal(network.decode(outputs).scores, network.decode(other).scores)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"inference_iterations": -2}, "inference_iterations is -2"),
        ({"iterations": 0, "inference_iterations": 3}, "has nothing to correct its map with"),
        ({"longest": 17}, "longest is 17; a window of 16 steps has no longer spans"),
        ({"host": "gtad", "graph_groups": 3}, "graph"),
        ({"memory_channels": 0}, "memory_channels is 0"),
    ],
)
def test_a_configuration_without_sense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **changes)
