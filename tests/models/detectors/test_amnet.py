"""AMNet's laws: what it is without its parts, what its mask and groups do, and that padding does nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from models.detectors import amnet_config, amnet_rules
from models.detectors.actionformer import ActionFormer
from models.detectors.amnet import Amnet, ChannelGroups, GroupLayer, TemporalGroups, components_of, spread_tokens
from models.detectors.amnet_config import AmnetConfig
from models.manifest import Windowing
from service.pipeline import windows
from tests.support import networks

GROUPS = ["temporal", "channel", "pyramid", "off"]
SMALL = networks.AMNET


def made(config: AmnetConfig) -> Amnet:
    return networks.scattered(Amnet, config)


def drawn(config: AmnetConfig, real: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same snippets for a seed, however long the window is."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.zeros(1, sum(config.input_channels), length)
    features[..., :real] = torch.randn(1, len(features[0]), real, generator=generator)
    return features, torch.arange(length)[None] < real


@pytest.mark.parametrize("neck", ["identity", "pyramid"])
def test_without_mask_and_groups_it_is_an_actionformer(neck: str) -> None:
    config = replace(SMALL, mask="off", groups="off", stem_blocks=2, neck=neck)
    network = made(config)
    plain = ActionFormer(config).eval()
    plain.load_state_dict({name.removeprefix("base."): weight for name, weight in network.state_dict().items()})
    features, mask = drawn(config, 29, 32)
    found, expected = network(features, mask), plain(features, mask)
    for mine, theirs in zip(found.detection, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))
    for one, other in zip(network.decode(found), plain.decode(expected), strict=True):
        assert torch.equal(one, other)
    assert found.mask_logits is None


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("mask", ["learned", "off"])
def test_each_part_changes_what_is_found(mask: str, groups: str) -> None:
    config = replace(SMALL, mask=mask, groups=groups)
    network = made(config)
    bare = Amnet(replace(config, mask="off", groups="off")).eval()
    bare.base.load_state_dict(network.base.state_dict())
    features, real = drawn(config, 29, 32)
    same = torch.equal(network(features, real).detection.logits[0], bare(features, real).detection.logits[0])
    assert same == (mask == groups == "off")


@pytest.mark.parametrize("form", ["softmax", "independent"])
def test_components_are_shares_of_one_or_each_its_own(form: str) -> None:
    network = made(replace(SMALL, mask_form=form))
    features, mask = drawn(SMALL, 32, 32)
    logits = network(features, mask).mask_logits
    assert logits.shape == (1, 2, 32)
    found = components_of(logits, form)
    assert ((found > 0) & (found < 1)).all()
    whole = torch.allclose(found.sum(dim=1), torch.ones(1, 32))
    assert whole == (form == "softmax")
    if form == "softmax":
        torch.testing.assert_close(found[:, 0], (logits[:, 0] - logits[:, 1]).sigmoid())


@pytest.mark.parametrize("refinement", ["projected", "scaled"])
def test_the_mask_decides_on_the_direction_or_the_size_of_a_step(refinement: str) -> None:
    """A layer norm over E + M E would give the same for every M."""
    masking = made(replace(SMALL, refinement=refinement)).masking
    torch.manual_seed(0)
    x, mask = torch.randn(1, 8, 16), torch.ones(1, 1, 16)
    bias = masking.get_parameter("positive_answer.conv.bias")
    with torch.no_grad():
        bias.fill_(-40)
        low = masking(x, mask)[0]
        bias.fill_(40)
        high = masking(x, mask)[0]
    if refinement == "scaled":
        torch.testing.assert_close(low, x)
        torch.testing.assert_close(high, 2 * x)
    else:
        torch.testing.assert_close(low, masking.norm(x + masking.project(0 * x, mask)))
        torch.testing.assert_close(high, masking.norm(x + masking.project(x, mask)))
        assert torch.cosine_similarity(low, high, dim=1).min() < 0.99


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("mask", ["learned", "off"])
def test_how_far_a_window_is_padded_beyond_its_margin_changes_nothing(mask: str, groups: str) -> None:
    config = replace(SMALL, mask=mask, groups=groups)
    network, lengths = made(config), config.lengths
    for real in (1, 13, 20):
        shortest = -(-(real + lengths.margin) // lengths.multiple_of) * lengths.multiple_of
        short, long = (network(*drawn(config, real, length)) for length in (shortest, shortest + 24))
        for level, stride in enumerate(config.strides):
            count = -(-real // stride)
            for kind in ("logits", "offsets"):
                found, expected = (getattr(one.detection, kind)[level][:, :count] for one in (short, long))
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        if mask == "learned":
            torch.testing.assert_close(short.mask_logits[..., :real], long.mask_logits[..., :real])
            assert not long.mask_logits[..., real:].any()


@pytest.mark.parametrize("groups", ["temporal", "channel", "pyramid"])
def test_the_far_end_of_a_window_is_seen_from_its_beginning(groups: str) -> None:
    network = made(replace(SMALL, groups=groups, windows=(3, 3, 3), refinement="scaled"))
    features, mask = drawn(SMALL, 64, 64)
    changed = features.clone()
    changed[..., 60:] += 1
    first = [network(values, mask).detection.logits[0][0, 0] for values in (features, changed)]
    assert not torch.equal(*first)
    alone = made(replace(SMALL, groups="off", windows=(3, 3, 3)))
    assert torch.equal(*(alone(values, mask).detection.logits[0][0, 0] for values in (features, changed)))


def test_groups_exchange_through_cross_attention_alone() -> None:
    layer = networks.scattered(GroupLayer, SMALL)
    torch.manual_seed(0)
    short, long = torch.randn(2, 4, 12), torch.randn(2, 4, 3)
    short_mask, long_mask = torch.ones(2, 1, 12), torch.ones(2, 1, 3)
    found = layer(short, short_mask, long, long_mask)
    without_long = layer(short, short_mask, torch.zeros_like(long), long_mask)
    without_short = layer(torch.zeros_like(short), short_mask, long, long_mask)
    assert (found[0] - without_long[0]).abs().max() > 1e-3
    assert (found[1] - without_short[1]).abs().max() > 1e-3
    with torch.no_grad():
        for block in (layer.short, layer.long):
            block.cross_path.scale.zero_()
    found = layer(short, short_mask, long, long_mask)
    assert torch.equal(found[0], layer(short, short_mask, torch.zeros_like(long), long_mask)[0])
    assert torch.equal(found[1], layer(torch.zeros_like(short), short_mask, long, long_mask)[1])


@pytest.mark.parametrize("kind", [TemporalGroups, ChannelGroups])
def test_what_stands_in_padded_steps_is_not_attended_to(kind: type[TemporalGroups | ChannelGroups]) -> None:
    groups = networks.scattered(kind, SMALL)
    torch.manual_seed(0)
    x, mask = torch.randn(1, 8, 24), (torch.arange(24) < 13)[None, None].float()
    assert torch.equal(groups(x, mask), groups(torch.where(mask > 0, x, 1e3), mask))
    torch.testing.assert_close(groups(x, mask)[..., :13], groups(x[..., :16], mask[..., :16])[..., :13])


def test_tokens_are_spread_linearly_and_the_last_real_one_is_held() -> None:
    tokens = torch.tensor([[[0.0, 4.0, 2.0, 99.0]]])
    mask = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    found = spread_tokens(tokens, mask, 4)[0, 0, :12]
    assert found.tolist() == [0, 1, 2, 3, 4, 3.5, 3, 2.5, 2, 2, 2, 2]
    assert spread_tokens(tokens, torch.ones(1, 1, 4), 4)[0, 0, 12:].tolist() == [99] * 4


def test_a_long_video_is_cut_to_windows_that_fit_into_memory() -> None:
    for preset in (amnet_config.thumos(), replace(amnet_config.thumos(), groups="pyramid")):
        windowing = TypeAdapter(Windowing).validate_python(amnet_rules.windowing(preset.lengths))
        shapes = {count: windows.plan(count, windowing).mask.shape for count in (300, 2290, 2304, 2305, 54_000)}
        assert shapes == {300: (1, 352), 2290: (1, 2304), 2304: (1, 2304), 2305: (2, 2304), 54_000: (31, 2304)}
    fixed = amnet_rules.windowing(amnet_config.activitynet().lengths)
    assert (fixed["mode"], fixed["length"]) == ("resize", 192)


def test_window_lengths_let_long_tokens_come_out_even() -> None:
    assert replace(SMALL, windows=(5, 5)).lengths.multiple_of == 4
    assert replace(SMALL, windows=(5, 5), groups="channel").lengths.multiple_of == 2
    assert replace(SMALL, long_stride=6).lengths.multiple_of == 12
    made(replace(SMALL, long_stride=6))(*drawn(SMALL, 30, 36))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mask": "on"}, "mask is 'on'; accepted are learned, off"),
        ({"mask_form": "hard"}, "mask_form is 'hard'; accepted are softmax, independent"),
        ({"refinement": "residual"}, "refinement is 'residual'; accepted are projected, scaled"),
        ({"groups": "both"}, "groups is 'both'; accepted are temporal, channel, pyramid, off"),
        ({"group_layers": 0}, "group_layers is 0; a whole number from 1 on is needed"),
        ({"group_heads": 3}, "group_heads 3 do not divide the 4 channels of a group"),
        ({"long_stride": 3}, "long_stride is 3; an even number is needed"),
        ({"channels": 9, "neck_channels": 9, "heads": 3}, "channels 9 cannot be halved for temporal groups"),
        ({"groups": "pyramid", "windows": (5,)}, "pyramid groups need two levels or more"),
        ({"windows": (5, 0), "train_length": 18}, "train_length 18 is no multiple of 4"),
        ({"heads": 3}, "channels 8 are no multiple of heads 3"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **options)
