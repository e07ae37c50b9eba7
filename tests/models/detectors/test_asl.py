"""ASL's network: its blocks against the authors' challenge code, and its own laws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from models.catalog import DETECTORS
from models.detectors import asl_config
from models.detectors.actionformer_blocks import TransformerBlock
from models.detectors.asl import Asl, ChannelAttention, MixedBlock, ReleasedBlock
from models.detectors.asl_config import AslConfig
from models.manifest import Resized, Whole, Windowing
from tests.support import golden, networks

FORWARD = {"atol": 1e-5, "rtol": 1e-4}
OURS = {
    "drop_path_attn": "attn_path",
    "drop_path_mlp": "mlp_path",
    "channel_attn.norm2": "channel_norm",
    "channel_attn.mlp": "channel_mlp",
    "channel_attn.attn": "channel_attn",
}


def published_block(stride: int) -> tuple[golden.GoldenSet, TransformerBlock, Tensor, Tensor]:
    """With the published weights; the input and its mask. Blocks that stride hold weights that they never use."""
    known = golden.read("asl_ego4d")
    width, heads = known.config["embd"], known.config["heads"]
    config = AslConfig(
        (width,),
        known.config["num_classes"],
        channels=width,
        neck_channels=width,
        heads=heads,
        channel_share=1 - known.config["t_c_alpha"],
    )
    block = ReleasedBlock(config, window=0) if stride == 1 else TransformerBlock(config, window=0, stride=stride)
    state = {}
    for key, value in known.state.items():
        if not key.startswith(f"stride{stride}/"):
            continue
        name = key.split("/", 1)[1]
        for theirs, ours in OURS.items():
            name = name.replace(theirs, ours)
        state[name] = value
    own = block.state_dict()
    idle = {name for name in state if name.startswith("channel_")} if stride > 1 else set()
    assert set(state) - set(own) == idle | {"channel_attn.norm1.weight", "channel_attn.norm1.bias"}
    block.load_state_dict({name: state[name].reshape(value.shape) for name, value in own.items()})
    mask = torch.from_numpy(known.inputs["mask"]).float()
    return known, block.eval(), torch.from_numpy(known.inputs["x"]), mask


def test_the_released_block_equals_the_published_one_at_real_and_padded_places() -> None:
    known, block, x, mask = published_block(1)
    assert isinstance(block, ReleasedBlock)
    with torch.inference_mode():
        normed = block.ln1(x)
        np.testing.assert_allclose(block(x, mask), known.outputs["block/stride1"], **FORWARD)
        across = known.outputs["block/stride1_channel_attn_of_ln1"]
        np.testing.assert_allclose(block.across_channels(normed), across, **FORWARD)


def test_the_released_channel_attention_equals_the_published_one() -> None:
    known, block, x, _ = published_block(1)
    expected = known.outputs["block/stride1_channel_attention_only"]
    with torch.inference_mode():
        np.testing.assert_allclose(block.channel_attn(block.ln1(x).transpose(1, 2)), expected, **FORWARD)


def test_a_block_that_strides_has_no_channel_attention() -> None:
    known, block, x, mask = published_block(2)
    with torch.inference_mode():
        np.testing.assert_allclose(block(x, mask[..., ::2]), known.outputs["block/stride2"], **FORWARD)


def attention(channels: int) -> ChannelAttention:
    torch.manual_seed(3)
    made = ChannelAttention(channels)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn_like(weight))
    return made


def test_channel_attention_is_the_formula_written_out() -> None:
    made = attention(3)
    x = torch.randn(1, 3, 5)
    query, key, value = (
        (layer.weight[..., 0] @ x[0] + layer.bias[:, None]).detach() for layer in (made.query, made.key, made.value)
    )
    mixed = torch.zeros(3, 5)
    for channel in range(3):
        scores = [math.exp(float(query[channel] @ key[other]) / math.sqrt(5)) for other in range(3)]
        for other in range(3):
            mixed[channel] += scores[other] / sum(scores) * value[other]
    expected = made.proj.weight[..., 0] @ mixed + made.proj.bias[:, None]
    torch.testing.assert_close(made(x, torch.ones(1, 1, 5))[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_padding_changes_channel_attention_in_its_released_form_alone(form: str) -> None:
    network = networks.scattered(Asl, replace(networks.ASL, channel_attention=form))
    x = torch.randn(1, 8, 12)
    found = []
    for length in (16, 32):
        padded = torch.cat([x, torch.zeros(1, 8, length - 12)], dim=2)
        with torch.inference_mode():
            found.append(network.stem[0](padded, (torch.arange(length) < 12).float()[None, None])[..., :12])
    gap = (found[0] - found[1]).abs().max()
    assert gap < 1e-5 if form == "paper" else gap > 1e-4


def test_the_share_of_channel_attention_is_what_was_asked_for() -> None:
    x, mask = torch.randn(2, 8, 16), torch.ones(2, 1, 16)
    mixed = {}
    for share in (0.0, 0.3, 1.0):
        block = networks.scattered(lambda config: MixedBlock(config, 5), replace(networks.ASL, channel_share=share))
        with torch.inference_mode():
            mixed[share] = block.attend(x, mask)
    torch.testing.assert_close(mixed[0.3], 0.7 * mixed[0.0] + 0.3 * mixed[1.0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed[0.0], mixed[1.0], atol=1e-2)


def test_without_channel_attention_it_is_actionformers_block() -> None:
    network = Asl(replace(networks.ASL, channel_attention="none"))
    assert [type(block) for block in network.stem] == [TransformerBlock] * 2


def test_the_first_level_has_a_block_of_its_own_and_full_resolution() -> None:
    network = networks.detector("asl", "local")
    assert [block.stride for block in network.branch] == [1, 2]
    assert network.config.strides == (1, 2)
    mask = torch.arange(16)[None] < torch.tensor([[16], [9]])
    with torch.inference_mode():
        outputs = network(torch.randn(2, 6, 16), mask)
    assert [tuple(level.shape) for level in outputs.features] == [(2, 8, 16), (2, 8, 8)]
    assert [tuple(level.shape) for level in outputs.logits] == [(2, 16, 3), (2, 8, 3)]
    for level, level_mask in zip(outputs.features, outputs.masks, strict=True):
        assert not level.transpose(1, 2)[~level_mask].any()


# Rows of the supplement's table: layers of the TCN encoder, the transformer encoder, levels, heads, width, steps.
TABLE: dict[str, tuple[int, int, int, int, int, int]] = {
    "thumos": (1, 2, 5, 8, 512, 1024),
    "multithumos": (1, 2, 5, 8, 512, 1024),
    "charades": (1, 2, 5, 8, 512, 512),
    "activitynet": (1, 2, 5, 4, 256, 192),
    "ego4d": (2, 3, 8, 8, 512, 1024),
    "epic-kitchens": (1, 2, 5, 8, 512, 1024),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_the_supplements_table(name: str) -> None:
    tcn, encoder, levels, heads, width, steps = TABLE[name]
    config = DETECTORS["asl"].presets[name]()
    with torch.device("meta"):
        network = Asl(config)
    assert len(network.embed) == 1 + tcn  # the projection comes first
    assert [type(block) for block in network.stem] == [MixedBlock] * encoder
    assert [block.stride for block in network.branch] == [1] + [2] * (levels - 1)
    assert network.branch[0].attn.heads == heads
    assert network.embed[0].conv.conv.out_channels == network.classify.answer.conv.in_channels == width
    assert len(network.classify.tower) == len(network.regress.tower) == 2
    assert config.train_length == steps


def windowing(config: AslConfig) -> Any:
    return TypeAdapter(Windowing).validate_python(DETECTORS["asl"].windowing(config.lengths))


def test_resized_videos_have_one_length_and_others_their_own() -> None:
    for preset, length in ((asl_config.multithumos, 1024), (asl_config.activitynet, 192)):
        found = windowing(preset())
        assert isinstance(found, Resized)
        assert (found.length, found.offset_steps) == (length, 0.5)
    for preset in (asl_config.thumos, asl_config.charades, asl_config.ego4d, asl_config.epic_kitchens):
        assert isinstance(windowing(preset()), Whole)


def test_the_released_form_is_padded_as_it_was_trained() -> None:
    released = windowing(replace(asl_config.thumos(), channel_attention="released"))
    assert released.margin == released.train_length == 1024
    assert windowing(asl_config.thumos()).margin < 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_share": 1.2}, r"channel_share is 1\.2"),
        ({"blocks": "convolution"}, "blocks is 'convolution'"),
        ({"resized": True, "train_length": 63}, "train_length is 63; resized videos need a multiple of .* 2"),
        ({"heads": 3}, "channels 8 are no multiple of heads 3"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(networks.ASL, **change)
