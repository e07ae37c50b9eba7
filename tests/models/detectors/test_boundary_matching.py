"""Boundary matching: what cells take of the steps around them, against published numbers and a plain computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.detectors.boundary_matching import BoundaryMatching, MapShape, shear
from tests.support import golden


def plain_weights(shape: MapShape, duration: int, start: int) -> np.ndarray:
    """What each bin of one cell takes of each step, sample by sample: (bins, T)."""
    end = start + duration + (1 if shape.after else 0)
    reach = (end - start + 1) * shape.context
    count = shape.bins * shape.samples_per_bin
    weights = np.zeros((shape.bins, shape.steps))
    for number in range(count):
        place = (start - reach) + (end + reach - (start - reach)) / (count - 1.0) * number
        upper, (part, lower) = math.ceil(place), math.modf(place)
        for step, share in ((int(lower), 1 - part), (upper, part)):
            if 0 <= step < shape.steps:
                weights[number // shape.samples_per_bin, step] += share / shape.samples_per_bin
    return weights


def weights_of(shape: MapShape, rows_at_once: int = 16) -> Tensor:
    """The same for all cells, as the layer has it: (bins, T, D, T)."""
    layer = BoundaryMatching(1, shape.bins, shape, rows_at_once)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(shape.bins)[:, None])
        return layer(torch.eye(shape.steps)[:, None]).transpose(0, 1)


SHAPES = [
    MapShape(100, 100),
    MapShape(40, 12),
    MapShape(25, 25, bins=8, after=True),
    MapShape(30, 20, bins=5, samples_per_bin=1, context=0.0),
    MapShape(9, 9, bins=3, samples_per_bin=4, context=1.25),
    MapShape(1, 1, bins=2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_cell_takes_what_its_samples_fall_on(shape: MapShape) -> None:
    found = weights_of(shape).numpy()
    draw = np.random.default_rng(0)
    for duration in range(shape.durations):
        starts = range(shape.steps - duration) if shape.steps < 30 else draw.integers(0, shape.steps - duration, 4)
        for start in {0, *map(int, starts)}:
            np.testing.assert_allclose(found[:, :, duration, start], plain_weights(shape, duration, start), atol=1e-6)


def test_cells_that_reach_beyond_the_window_are_the_bias() -> None:
    layer = BoundaryMatching(3, 5, MapShape(12, 10, bins=4), rows_at_once=4)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(5.0))
        found = layer(torch.randn(2, 3, 12))
    outside = ~layer.shape.fits()
    assert torch.equal(found[:, :, outside], torch.arange(5.0)[None, :, None].expand(2, 5, int(outside.sum())))
    assert (found[:, :, ~outside] != torch.arange(5.0)[None, :, None]).all()


def test_the_published_matrix_is_what_the_layer_does() -> None:
    stored = golden.read("bmn_jjboy")
    steps, bins = stored.config["opt"]["temporal_scale"], stored.config["opt"]["num_sample"]
    shape = MapShape(steps, steps, bins, stored.config["opt"]["num_sample_perbin"], after=True)
    there, _ = shear(shape)
    published = stored.state["sample_mask"].unflatten(1, (bins, steps, steps)).transpose(0, 1)
    found = weights_of(shape).flatten(2)[..., there].unflatten(2, (steps, steps))
    torch.testing.assert_close(found, published, atol=1e-6, rtol=0)


def test_sums_of_the_published_matrix_at_full_size() -> None:
    stored = golden.read("bmn_jjboy")
    shape = MapShape(stored.config["full_scale"]["temporal_scale"], 100, after=True)
    there, _ = shear(shape)
    found = weights_of(shape).flatten(2)[..., there].unflatten(2, (100, 100)).double()
    step, tap = torch.arange(100.0).double(), torch.arange(32.0).double()
    expected = stored.outputs
    np.testing.assert_allclose(found.sum(dim=(0, 1)), expected["full_mask/sum_over_t_and_n"], atol=1e-5)
    np.testing.assert_allclose(
        torch.einsum("ntij,t->ij", found, step), expected["full_mask/sum_t_times_mask"], atol=1e-3, rtol=1e-6
    )
    np.testing.assert_allclose(
        torch.einsum("ntij,n,t->ij", found, tap, step), expected["full_mask/sum_n_t_times_mask"], atol=1e-2, rtol=1e-6
    )
    columns = stored.config["full_mask_columns_at"]
    chosen = torch.stack([found[:, :, i, j] for i, j in zip(columns["start"], columns["end"], strict=True)], dim=2)
    np.testing.assert_allclose(chosen.transpose(0, 1), expected["full_mask/columns"], atol=1e-6)


def test_rows_may_be_taken_in_groups_of_any_size() -> None:
    torch.manual_seed(0)
    x, shape = torch.randn(2, 6, 30), MapShape(30, 21, bins=5)
    layers = [BoundaryMatching(6, 7, shape, size) for size in (1, 4, 21, 64)]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    first, *others = [layer(x, torch.relu) for layer in layers]
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_plain_product() -> None:
    torch.manual_seed(0)
    shape = MapShape(14, 9, bins=4)
    layer = BoundaryMatching(3, 5, shape, rows_at_once=4).double()
    x = torch.randn(2, 3, 14, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(2, 5, 9, 14, dtype=torch.float64)
    weights = weights_of(shape).double()
    plain = torch.einsum("ocn,bct,ntij->boij", layer.weight, x, weights) + layer.bias[:, None, None]
    wanted = torch.autograd.grad((plain.tanh() * seed).sum(), [x, layer.weight, layer.bias])
    found = torch.autograd.grad((layer(x, torch.tanh) * seed).sum(), [x, layer.weight, layer.bias])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_nothing_large_is_kept() -> None:
    shape = MapShape(100, 100)
    layer = BoundaryMatching(4, 8, shape)
    assert max(buffer.numel() for buffer in layer.buffers()) < shape.bins * shape.steps * 16
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_a_sheared_map_finds_back() -> None:
    shape = MapShape(7, 7)
    there, back = shear(shape)
    cells = torch.arange(49)
    assert torch.equal(cells[there][back], cells)
    spans = shape.spans().flatten(0, 1)[there].unflatten(0, (7, 7))
    for start in range(7):
        for last in range(start, 7):
            assert spans[start, last].tolist() == [start, last + 1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"durations": 9}, "a window of 8 steps has no longer spans"),
        ({"bins": 1, "samples_per_bin": 1}, "two samples"),
        ({"context": -1.0}, "context is -1.0"),
    ],
)
def test_a_shape_without_sense_is_refused(given: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MapShape(**{"steps": 8, "durations": 8, **given})
