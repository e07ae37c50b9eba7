"""The recurrent update against RAFT's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.detectors.refinement import ConvGru, FullUpdate, Refinement
from tests.support import golden

OURS = {
    "encoder.convc1": "encoder.cells",
    "encoder.convf1": "encoder.wide",
    "encoder.convf2": "encoder.narrow",
    "encoder.conv": "encoder.joined",
    "gru.convz": "gru.update",
    "gru.convr": "gru.reset",
    "gru.convq": "gru.propose",
    "flow_head.conv1": "head.0",
    "flow_head.conv2": "head.2",
}
GATES = {"convz": "update", "convr": "reset", "convq": "propose"}
FORWARD = {"atol": 2e-6, "rtol": 1e-5}


def filled(module: nn.Module, known: golden.GoldenSet, prefix: str, names: dict[str, str]) -> None:
    own = {}
    for key, value in known.state.items():
        if key.startswith(prefix):
            layer, kind = key.removeprefix(prefix).rsplit(".", 1)
            own[f"{names[layer]}.{kind}"] = value
    module.load_state_dict(own)


@pytest.fixture
def known() -> golden.GoldenSet:
    return golden.read("raft_update")


@pytest.fixture
def refinement(known: golden.GoldenSet) -> Refinement:
    network = Refinement(known.inputs["corr"].shape[1], 16, known.inputs["inp"].shape[1], "full")
    filled(network.update, known, "block/", OURS)
    return network


def test_the_gated_memory_is_the_published_one(known: golden.GoldenSet) -> None:
    memory, x = (torch.from_numpy(known.inputs[name]) for name in ("gru_h", "gru_x"))
    gru = ConvGru(memory.shape[1], x.shape[1])
    filled(gru, known, "gru/", GATES)
    with torch.inference_mode():
        both = torch.cat([memory, x], dim=1)
        np.testing.assert_allclose(gru.update(both).sigmoid(), known.outputs["gru_z"], **FORWARD)
        np.testing.assert_allclose(gru.reset(both).sigmoid(), known.outputs["gru_r"], **FORWARD)
        np.testing.assert_allclose(gru(memory, x), known.outputs["gru_out"], **FORWARD)


def test_one_update_is_the_published_one(known: golden.GoldenSet, refinement: Refinement) -> None:
    memory, context, cells, logits = (torch.from_numpy(known.inputs[name]) for name in ("net", "inp", "corr", "flow"))
    assert isinstance(refinement.update, FullUpdate)
    with torch.inference_mode():
        found, change = refinement.update(memory, context, cells, logits)
        np.testing.assert_allclose(
            refinement.update.encoder(cells, logits), known.outputs["motion_features"], **FORWARD
        )
    np.testing.assert_allclose(found, known.outputs["net_out"], **FORWARD)
    np.testing.assert_allclose(change, known.outputs["delta_flow"], **FORWARD)


def test_the_loop_and_its_gradients_are_the_published_ones(known: golden.GoldenSet, refinement: Refinement) -> None:
    memory, context, cells, logits = (torch.from_numpy(known.inputs[name]) for name in ("net", "inp", "corr", "flow"))
    steps = known.config["iters"]
    _, *found = refinement.corrected(memory, context, cells, logits, steps)
    for step, expected in zip(found, known.outputs["iter_flow"], strict=True):
        np.testing.assert_allclose(step.detach(), expected, atol=2e-5)
    seed = torch.from_numpy(known.inputs["grad_seed"])
    far = torch.stack([(step - seed).abs().mean() for step in found])
    loss = (far * 0.8 ** torch.arange(steps - 1, -1, -1)).sum()
    assert loss.item() == pytest.approx(float(known.outputs["iter_sequence_loss_gamma.8"]), rel=1e-5)
    loss.backward()
    for theirs, ours in OURS.items():
        for kind in ("weight", "bias"):
            weight = refinement.update.get_parameter(f"{ours}.{kind}")
            assert weight.grad is not None
            expected = float(known.outputs[f"grad_norm/block/{theirs}.{kind}"])
            assert weight.grad.double().norm().item() == pytest.approx(expected, rel=1e-3)


def test_more_steps_go_on_from_fewer() -> None:
    torch.manual_seed(0)
    network = Refinement(5, 6, 4, "lean")
    cells, logits = torch.randn(1, 5, 7, 9), torch.randn(1, 2, 7, 9)
    long, short = network(cells, logits, 5), network(cells, logits, 2)
    assert len(long) == 6
    assert network(cells, logits, 0) == [logits]
    for ours, other in zip(long, short, strict=False):
        assert torch.equal(ours, other)
    assert not torch.allclose(long[-1], long[-2])
