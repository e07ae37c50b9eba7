"""I3D against recorded numbers of the published network, hand-worked padding, and its own laws."""

import math
import zlib

import numpy as np
import pytest
import torch

from exporters import published
from models.backbones import i3d
from models.backbones.backbone import CHANNELS
from models.backbones.i3d import FLOW_SCALE, RGB_SCALE, I3d, I3dConfig, SamePadding
from tests.support import golden

SMALL = {kind: I3dConfig(kind, 5, 0.125, clip_frames=9, size_px=32) for kind in CHANNELS}


def recipe(config, key, shape):
    """The weights of a golden set, as its config.json says in words."""
    draw = np.random.default_rng([config["seed"], zlib.crc32(key.encode())]).standard_normal(shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("conv3d.weight"):
        draw = draw * math.sqrt(2 / math.prod(shape[1:]))
    elif key.endswith("bn.running_var"):
        draw = 1 + 0.3 * np.abs(draw)
    elif key.endswith("bn.weight"):
        draw = 1 + 0.1 * draw
    else:
        draw = 0.1 * draw
    return torch.from_numpy(draw.astype(np.float32))


def published_shapes(config):
    form = published.find_layout("i3d", "official")
    shapes = {
        form.published_name(name): tuple(value.shape) for name, value in form.build(config, {}).state_dict().items()
    }
    return shapes | {"logits.conv3d.weight": (*shapes["logits.conv3d.weight"][:2], 1, 1, 1)}


def clips_of(config: I3dConfig, count, seed=0, frames=None):
    draw = torch.Generator().manual_seed(seed)
    shape = (count, frames or config.clip_frames, config.size_px, config.size_px)
    if config.kind == "rgb":
        return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=draw)
    return 15 * torch.randn((*shape, 2), generator=draw)


def network(config, seed=0):
    """Weights as lively as trained ones: batch norm passes on what comes in, roughly."""
    torch.manual_seed(seed)
    made = I3d(config)
    for module in made.modules():
        if isinstance(module, torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.running_var, 0.7, 1.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    return made.eval()


@pytest.fixture(scope="module", params=list(CHANNELS))
def small(request):
    return network(SMALL[request.param])


@pytest.mark.parametrize("name", ["rgb16", "flow24"])
def test_every_endpoint_the_features_and_the_logits_equal_the_published_network(name):
    stored = golden.read(f"i3d/{name}")
    config, outputs = stored.config, stored.outputs
    state = {key: recipe(config, key, shape) for key, shape in published_shapes(config).items()}
    for key, first, total in zip(
        *(stored.inputs[f"recipe_check/{part}"] for part in ("keys", "first", "sum")), strict=True
    ):
        assert state[key].flatten()[0] == first
        assert state[key].double().sum().item() == pytest.approx(total, rel=1e-9, abs=1e-6)
    draw = np.random.default_rng([config["seed"], zlib.crc32(b"clip")])
    clip = draw.uniform(-1, 1, (1, config["in_channels"], config["T"], 224, 224)).astype(np.float32)
    assert np.array_equal(clip.ravel()[:8], stored.inputs["recipe_check/clip_first8"])

    net = published.load("i3d", "official", state, config)
    with torch.no_grad():
        endpoints = net.endpoints(torch.from_numpy(clip))
        steps = net.steps(endpoints["Mixed_5c"])
        logits = net.step_scores(steps)

    assert {f"endpoint/{stage}/shape" for stage in endpoints} == {key for key in outputs if key.endswith("/shape")}
    for stage, values in endpoints.items():
        expected = {part: outputs[f"endpoint/{stage}/{part}"] for part in ("shape", "probe_index", "probe_value")}
        mean, std, low, high = outputs[f"endpoint/{stage}/mean_std_min_max"]
        allowed = {"rtol": 0, "atol": 1e-3 * std, "err_msg": stage}
        assert values.shape == tuple(expected["shape"])
        probed = values.flatten()[torch.from_numpy(expected["probe_index"])]
        np.testing.assert_allclose(probed, expected["probe_value"], **allowed)
        np.testing.assert_allclose([values.mean(), values.std(correction=0)], [mean, std], **allowed)
        np.testing.assert_allclose([values.min(), values.max()], [low, high], **allowed)
        channel_means = outputs[f"endpoint/{stage}/channel_mean"]
        np.testing.assert_allclose(values.mean((0, 2, 3, 4)), channel_means, **allowed)
    features = outputs["features"][..., 0, 0]
    np.testing.assert_allclose(steps, features, rtol=1e-4, atol=1e-4 * features.std())
    np.testing.assert_allclose(logits, outputs["logits"], rtol=0, atol=1e-3 * outputs["logits"].std())


@pytest.mark.parametrize("size", range(1, 16))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (2, 2), (3, 1), (1, 1)])
def test_padding_gives_one_position_per_stride_and_puts_the_odd_zero_at_the_end(size, kernel, stride):
    padded = SamePadding((1, 1, kernel), (1, 1, stride))(torch.ones(1, 1, 1, 1, size)).flatten()
    missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    assert padded.tolist() == [0.0] * (missing // 2) + [1.0] * size + [0.0] * (missing - missing // 2)


def test_padding_treats_each_axis_by_its_own_size():
    assert SamePadding((3, 3, 3), (2, 2, 2))(torch.ones(1, 1, 4, 5, 6)).shape == (1, 1, 5, 7, 7)


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (8, 1), (9, 1), (16, 1), (17, 2), (24, 2), (25, 3)])
def test_time_shrinks_by_eight_and_neighbours_are_averaged(small, frames, steps):
    clips = clips_of(small.config, 1, frames=frames)
    with torch.no_grad():
        volume = small.endpoints(small.normalise(clips).permute(0, 4, 1, 2, 3))["Mixed_5c"]
        found = small.steps(volume)
        outputs = small(clips)
    each = volume.mean((3, 4))
    assert volume.shape[2] == math.ceil(frames / 8)
    assert found.shape == (1, small.feature_channels, steps)
    torch.testing.assert_close(found, each if each.shape[2] == 1 else (each[:, :, 1:] + each[:, :, :-1]) / 2)
    torch.testing.assert_close(outputs.features, found.mean(2))
    torch.testing.assert_close(outputs.scores, small.step_scores(found).mean(2))


def test_a_batch_equals_its_clips_one_by_one(small):
    clips = clips_of(small.config, 3)
    with torch.no_grad():
        batch, singles = small(clips), [small(clip[None]) for clip in clips]
    assert batch.features.shape == (3, small.feature_channels)
    assert batch.scores.shape == (3, small.config.num_classes)
    torch.testing.assert_close(batch.features, torch.cat([single.features for single in singles]))
    torch.testing.assert_close(batch.scores, torch.cat([single.scores for single in singles]))
    assert batch.features.std(0).max() > 1e-3  # different clips, different features


def test_every_parameter_gets_a_gradient(small):
    small.zero_grad()
    outputs = small(clips_of(small.config, 2))
    (outputs.features.square().sum() + outputs.scores.square().sum()).backward()
    without = [name for name, value in small.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == []


def test_bytes_become_minus_one_to_one():
    net = network(SMALL["rgb"])
    assert net.normalise(torch.tensor([0, 127, 255], dtype=torch.uint8)).tolist() == pytest.approx([-1, -1 / 255, 1])
    assert net.clip_format.scale is RGB_SCALE


def test_displacements_are_bounded_to_twenty_pixels():
    net = network(SMALL["flow"])
    assert net.normalise(torch.tensor([-50.0, 5.0])).tolist() == [-1.0, 0.25]
    assert net.clip_format.scale is FLOW_SCALE
    clips = clips_of(net.config, 1) * 4
    with torch.no_grad():
        assert torch.equal(net(clips).features, net(clips.clamp(-20, 20)).features)
        assert not torch.equal(net(clips).features, net(clips.clamp(-19, 19)).features)


def test_scaling_moves_with_the_network_but_is_no_weight():
    net = I3d(SMALL["rgb"])
    assert not [name for name in net.state_dict() if "normalise" in name]
    assert net.to("meta").normalise.mean.device.type == "meta"


@pytest.mark.parametrize(
    ("kind", "clips"),
    [
        ("rgb", torch.zeros(1, 3, 9, 32, 32, dtype=torch.uint8)),
        ("rgb", torch.zeros(9, 32, 32, 3, dtype=torch.uint8)),
        ("rgb", torch.zeros(1, 9, 32, 32, 3)),
        ("rgb", torch.zeros(1, 9, 32, 32, 2)),
        ("flow", torch.zeros(1, 9, 32, 32, 3)),
        ("flow", torch.zeros(1, 9, 32, 32, 2, dtype=torch.uint8)),
        ("flow", torch.zeros(1, 9, 32, 32, 2, dtype=torch.float64)),
    ],
)
def test_other_layouts_channels_and_types_are_refused_with_their_shape(kind, clips):
    with pytest.raises(ValueError, match="clips are ") as refused:
        I3d(SMALL[kind])(clips)
    assert f"{tuple(clips.shape)} of {clips.dtype}" in str(refused.value)
    assert f"{kind} takes (N, T, H, W, {CHANNELS[kind]})" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "depth"}, "kind is 'depth'; accepted are rgb, flow"),
        ({"num_classes": 0}, "num_classes is 0; a whole number from 1 on"),
        ({"num_classes": "400"}, "num_classes is '400'"),
        ({"clip_frames": 1.5}, "clip_frames is 1.5"),
        ({"width": 0}, "width is 0; a number above 0 and up to 4"),
        ({"dropout": 1.0}, "dropout is 1.0; a number from 0 to below 1"),
    ],
)
def test_impossible_configurations_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        I3dConfig(**options)


def test_width_multiplies_every_channel_count_and_leaves_at_least_one():
    full, quarter, eighth = (
        {n: v.shape for n, v in I3d(I3dConfig(width=w)).state_dict().items()} for w in (1, 0.25, 0.125)
    )
    norms = [name for name in full if name.endswith("norm.weight")]
    assert len(norms) == 57
    assert all(quarter[name][0] * 4 == full[name][0] for name in norms)
    assert all(eighth[name][0] * 8 == full[name][0] for name in norms)
    assert min(value.shape[0] for value in I3d(I3dConfig(width=0.01)).parameters()) == 1


def test_presets_say_what_they_are_fed_with():
    assert (i3d.rgb().kind, i3d.rgb().size_px, i3d.rgb().clip_frames) == ("rgb", 224, 16)
    assert i3d.flow(101) == I3dConfig("flow", 101)
    small = I3d(i3d.compact("flow", 20))
    assert (small.clip_format.size_px, small.clip_format.kind, small.feature_channels) == (112, "flow", 256)


def test_an_exported_program_takes_any_number_of_clips(small):
    clips = clips_of(small.config, 2)
    program = torch.export.export(small, (clips,), dynamic_shapes={"clips": {0: torch.export.Dim("N", min=1)}})
    more = clips_of(small.config, 5, seed=1)
    with torch.no_grad():
        for batch in (more, more[:1]):
            torch.testing.assert_close(tuple(program.module()(batch)), tuple(small(batch)))


def test_a_centred_network_does_not_see_what_stands_still() -> None:
    network = I3d(I3dConfig("rgb", 5, 0.1, clip_frames=4, size_px=32, centred=True)).eval()
    moving = torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8)
    for frame in range(4):
        moving[:, frame, :, 4 * frame : 4 * frame + 4] = 100
    scene = torch.randint(0, 100, (1, 1, 32, 32, 3), dtype=torch.uint8).expand(1, 4, 32, 32, 3)
    with torch.no_grad():
        alone, before_it, still = (network(clips).features for clips in (moving, moving + scene, scene.contiguous()))
    seen = (alone - still).abs().max()
    assert seen > 0
    assert (alone - before_it).abs().max() < 1e-3 * seen
