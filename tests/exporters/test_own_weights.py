"""Weights that training wrote, through the same door as published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exporters import networks, published
from exporters.recipe import DetectorRecipe
from service.errors import InvalidOptions, WeightsMismatch
from tests.support.networks import LOCAL, detector
from training import checkpoints

OPTIONS = {
    "input_channels": list(LOCAL.input_channels),
    "num_classes": LOCAL.num_classes,
    "channels": 8,
    "neck_channels": 8,
    "head_channels": 8,
    "heads": 2,
    "windows": [5, 5],
    "train_length": 64,
}


def recipe(weights: str) -> DetectorRecipe:
    return DetectorRecipe(network="actionformer", preset="compact", options=OPTIONS, weights=weights)


def test_a_recipe_may_name_the_weights_of_a_run(tmp_path: Path) -> None:
    trained = detector("actionformer", "local")
    checkpoints.write(tmp_path / "weights.safetensors", trained.state_dict(), {"step": 5})
    built = networks.detector(recipe("weights.safetensors"), tmp_path)
    assert not built.training
    assert all(torch.equal(value, built.state_dict()[name]) for name, value in trained.state_dict().items())


def test_of_a_checkpoint_the_averaged_weights_are_taken(tmp_path: Path) -> None:
    average = {"weight": torch.ones(2)}
    tensors = checkpoints.under("network", {"weight": torch.zeros(2)}) | checkpoints.under("loss", {"n": torch.ones(1)})
    checkpoints.write(tmp_path / "last.safetensors", tensors | checkpoints.under("average", average), {})
    assert torch.equal(published.read(tmp_path / "last.safetensors")["weight"], torch.ones(2))
    checkpoints.write(tmp_path / "last.safetensors", tensors, {})
    assert published.read(tmp_path / "last.safetensors").keys() == {"weight"}


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "weights.safetensors", {"weight": torch.ones(2)}, {})
    with pytest.raises(WeightsMismatch, match="found nothing"):
        networks.detector(recipe("weights.safetensors"), tmp_path)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(InvalidOptions, match="no weights that load without running code"):
        published.read(tmp_path / "noise.safetensors")
    with pytest.raises(InvalidOptions, match=r"none\.safetensors"):
        published.read(tmp_path / "none.safetensors")
