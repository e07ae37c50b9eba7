"""TSN's networks against published sizes, hand-worked pixels and pooling, and their own laws."""

import numpy as np
import pytest
import torch

from models.backbones import tsn
from models.backbones.backbone import CHANNELS
from models.backbones.bn_inception import BnInception
from models.backbones.resnet import ResNet50
from models.backbones.tsn import SEGMENT_FRAMES, TRUNKS, Tsn, TsnConfig
from service.pipeline.flow import FlowRule, bound

EVERY = [(architecture, kind) for architecture in TRUNKS for kind in CHANNELS]


def small(architecture, kind, segments=1):
    return TsnConfig(architecture, kind, 5, segments, 0.125, size_px=64)


def clips_of(config, count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = (count, config.segments * SEGMENT_FRAMES[config.kind], config.size_px, config.size_px)
    if config.kind == "rgb":
        return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=draw)
    return 15 * torch.randn((*shape, 2), generator=draw)


def network(config, seed=0):
    """Weights as lively as trained ones: batch norm passes on what comes in, roughly."""
    torch.manual_seed(seed)
    made = Tsn(config)
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.7, 1.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    return made.eval()


@pytest.fixture(scope="module", params=EVERY, ids="-".join)
def net(request):
    return network(small(*request.param, segments=2))


@pytest.mark.parametrize(("architecture", "count"), [("resnet50", 25_557_032), ("bn_inception", 11_295_240)])
def test_there_are_as_many_parameters_as_in_the_published_networks(architecture, count):
    with torch.device("meta"):
        made = Tsn(TsnConfig(architecture, num_classes=1000))
    assert sum(value.numel() for value in made.parameters()) == count


@pytest.mark.parametrize(
    ("trunk", "stages"),
    [
        (
            ResNet50(3, 0.125),
            {"conv1": (8, 112), "pool": (8, 56), "layer1": (32, 56), "layer2": (64, 28), "layer3": (128, 14)}
            | {"layer4": (256, 7)},
        ),
        (
            BnInception(3, 0.125),
            {"conv1_7x7_s2": (8, 112), "pool1_3x3_s2": (8, 56), "conv2_3x3": (24, 56), "pool2_3x3_s2": (24, 28)}
            | {"inception_3a": (32, 28), "inception_3b": (40, 28), "inception_3c": (72, 14), "inception_4a": (72, 14)}
            | {"inception_4b": (72, 14), "inception_4c": (76, 14), "inception_4d": (76, 14), "inception_4e": (132, 7)}
            | {"inception_5a": (128, 7), "inception_5b": (128, 7)},
        ),
    ],
    ids=["resnet50", "bn_inception"],
)
def test_stages_have_the_published_channels_and_sizes_at_224_px(trunk, stages):
    maps, seen = torch.zeros(1, 3, 224, 224), {}
    with torch.no_grad():
        for name, stage in trunk.eval().named_children():
            maps = stage(maps)
            seen[name] = tuple(maps.shape[1:])
    assert {name: seen[name] for name in stages} == {name: (wide, side, side) for name, (wide, side) in stages.items()}
    assert seen[list(seen)[-1]] == (trunk.channels_out, 7, 7)


def test_resnet_strides_on_its_3x3_and_on_its_shortcut():
    trunk = ResNet50(3, 0.125)
    strides = [trunk.layer2[0].get_submodule(part).conv.stride[0] for part in ("conv1", "conv2", "conv3", "shortcut")]
    assert strides == [1, 2, 1, 2]
    assert [len(trunk.get_submodule(f"layer{level}")) for level in (1, 2, 3, 4)] == [3, 4, 6, 3]
    assert trunk.layer1[0].shortcut.conv.stride == (1, 1)
    assert isinstance(trunk.layer1[1].shortcut, torch.nn.Identity)


def test_bn_inception_rounds_halved_sizes_up():
    row = torch.tensor([3.0, 1, 2, 9, 4, 7, 5, 8])
    picture = row.expand(1, 1, 8, 8)
    pool = BnInception(3, 0.125).pool1_3x3_s2
    # Windows of three from 0, 2, 4 and, beginning inside but reaching beyond, 6.
    assert pool(picture)[0, 0, 0].tolist() == [3, 9, 7, 8]
    assert pool(picture).shape == (1, 1, 4, 4)


def test_bn_inception_counts_padding_in_averages_and_pools_by_maximum_at_the_end():
    trunk = BnInception(3, 0.125)
    ones = torch.ones(1, 1, 4, 4)
    average = trunk.inception_4c.pooled[0](ones)[0, 0]
    assert average[0].tolist() == pytest.approx([4 / 9, 6 / 9, 6 / 9, 4 / 9])
    assert average[1, 1] == pytest.approx(1)
    assert torch.equal(trunk.inception_5b.pooled[0](-ones), -ones)


def test_branches_stand_side_by_side_in_the_published_order():
    block = BnInception(3, 0.125).inception_4a.eval()
    maps = torch.rand(1, 72, 6, 6)
    with torch.no_grad():
        found = block(maps).split([28, 12, 16, 16], 1)
        branches = [block.point(maps), block.first(maps), block.second(maps), block.pooled(maps)]
    assert all(torch.equal(part, branch) for part, branch in zip(found, branches, strict=True))


@pytest.mark.parametrize("trunk", TRUNKS.values())
def test_batch_norm_divides_as_in_the_published_networks(trunk):
    norms = [module for module in trunk(3, 0.125).modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == {ResNet50: 53, BnInception: 69}[trunk]
    assert {norm.eps for norm in norms} == {1e-5}


def test_halving_blocks_pass_on_what_comes_in():
    block = BnInception(3, 0.125).inception_3c.eval()
    maps = torch.randn(1, 40, 8, 8)
    with torch.no_grad():
        found = block(maps)
    assert found.shape == (1, 72, 4, 4)
    assert torch.equal(found[:, -40:], torch.nn.functional.max_pool2d(maps, 3, 2, ceil_mode=True))


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("resnet50", [(10 - 123.675) / 58.395, (20 - 116.28) / 57.12, (255 - 103.53) / 57.375]),
        ("bn_inception", [255.0 - 104, 20.0 - 117, 10.0 - 128]),
    ],
)
def test_rgb_is_scaled_as_the_weights_expect(architecture, expected):
    net = Tsn(small(architecture, "rgb"))
    clips = torch.tensor([10, 20, 255], dtype=torch.uint8).expand(1, 1, 2, 2, 3)
    assert net.stacks(clips)[0, :, 1, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("architecture", "std_byte"), [("resnet50", 128), ("bn_inception", 1)])
def test_flow_is_bounded_and_scaled_like_the_bytes_of_a_flow_image(architecture, std_byte):
    net = Tsn(small(architecture, "flow"))
    clips = torch.zeros(1, 5, 1, 1, 2)
    clips[0, :, 0, 0, 0] = torch.tensor([-50.0, -20, 0, 20, 50])
    found = net.stacks(clips)[0, ::2, 0, 0] * std_byte
    assert found.tolist() == pytest.approx([-128, -128, -0.5, 127, 127], abs=1e-4)


def test_rounded_flow_gives_the_bytes_of_a_flow_image():
    net = Tsn(small("bn_inception", "flow"))
    fields = np.random.default_rng(0).normal(0, 12, (1, 5, 8, 8, 2)).astype(np.float32)
    fields[0, 0, 0, 0] = 0
    stacks = net.stacks(torch.from_numpy(bound(fields, FlowRule("dis_fast", 20, quantised=True))))
    torch.testing.assert_close(stacks, stacks.round(), rtol=0, atol=1e-4)
    assert stacks[0, :2, 0, 0].tolist() == pytest.approx([0, 0], abs=1e-4)  # still is 128


def test_five_fields_become_ten_channels_x_before_y():
    net = Tsn(small("bn_inception", "flow", segments=2))
    clips = torch.arange(20.0).reshape(1, 10, 1, 1, 2) - 10
    bytes_of_flow = clips.flatten() * 6.375 - 0.5
    torch.testing.assert_close(net.stacks(clips).squeeze(), bytes_of_flow.reshape(2, 10))


def test_features_and_scores_are_means_over_segments(net):
    single = Tsn(small(net.config.architecture, net.config.kind)).eval()
    single.load_state_dict(net.state_dict())
    clips = clips_of(net.config, 2)
    frames = SEGMENT_FRAMES[net.config.kind]
    with torch.no_grad():
        both, first, second = net(clips), single(clips[:, :frames]), single(clips[:, frames:])
    torch.testing.assert_close(both.features, (first.features + second.features) / 2)
    torch.testing.assert_close(both.scores, (first.scores + second.scores) / 2)
    assert (first.features - second.features).abs().max() > 1e-3


def test_a_batch_equals_its_clips_one_by_one(net):
    clips = clips_of(net.config, 3)
    with torch.no_grad():
        batch, singles = net(clips), [net(clip[None]) for clip in clips]
    assert batch.features.shape == (3, net.feature_channels)
    assert batch.scores.shape == (3, 5)
    torch.testing.assert_close(batch.features, torch.cat([single.features for single in singles]))
    torch.testing.assert_close(batch.scores, torch.cat([single.scores for single in singles]))
    assert batch.features.std(0).max() > 1e-3


def test_every_parameter_gets_a_gradient(net):
    net.zero_grad()
    outputs = net(clips_of(net.config, 2))
    (outputs.features.square().sum() + outputs.scores.square().sum()).backward()
    without = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize(
    ("kind", "clips"),
    [
        ("rgb", torch.zeros(1, 3, 2, 64, 64, dtype=torch.uint8)),
        ("rgb", torch.zeros(2, 64, 64, 3, dtype=torch.uint8)),
        ("rgb", torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8)),
        ("rgb", torch.zeros(1, 2, 64, 64, 3)),
        ("flow", torch.zeros(1, 5, 64, 64, 2)),
        ("flow", torch.zeros(1, 10, 64, 64, 3)),
        ("flow", torch.zeros(1, 10, 64, 64, 2, dtype=torch.uint8)),
    ],
)
def test_other_layouts_lengths_channels_and_types_are_refused_with_their_shape(kind, clips):
    with pytest.raises(ValueError, match="clips are ") as refused:
        Tsn(small("resnet50", kind, segments=2))(clips)
    frames = {"rgb": 2, "flow": 10}[kind]
    assert f"{tuple(clips.shape)} of {clips.dtype}" in str(refused.value)
    assert f"{kind} takes (N, {frames}, H, W, {CHANNELS[kind]})" in str(refused.value)


def test_bn_inception_refuses_sizes_at_which_its_branches_disagree():
    with pytest.raises(ValueError, match="pictures of 64x112 px; BN-Inception takes multiples of 32"):
        Tsn(small("bn_inception", "rgb"))(torch.zeros(1, 1, 112, 64, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="size_px is 112; bn_inception takes multiples of 32"):
        TsnConfig("bn_inception", size_px=112)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"architecture": "resnet18"}, "architecture is 'resnet18'; accepted are resnet50, bn_inception"),
        ({"kind": "depth"}, "kind is 'depth'; accepted are rgb, flow"),
        ({"segments": 0}, "segments is 0; a whole number from 1 on"),
        ({"width": -1}, "width is -1; a number above 0 and up to 4"),
        ({"dropout": 1}, "dropout is 1; a number from 0 to below 1"),
    ],
)
def test_impossible_configurations_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        TsnConfig(**options)


def test_presets_say_what_they_are_fed_with():
    forms = {
        preset: Tsn(config).clip_format
        for preset, config in {
            "resnet50": tsn.resnet50("rgb", 200),
            "bn_inception": tsn.bn_inception("flow", 200),
            "compact": tsn.compact("flow", 20),
        }.items()
    }
    found = {preset: (form.kind, form.clip_frames, form.size_px) for preset, form in forms.items()}
    assert found == {"resnet50": ("rgb", 1, 224), "bn_inception": ("flow", 5, 224), "compact": ("flow", 5, 112)}


def test_scaling_moves_with_the_network_but_is_no_weight(net):
    assert not [name for name in net.state_dict() if "normalise" in name]
    assert Tsn(net.config).to("meta").normalise.std.device.type == "meta"


def test_width_leaves_at_least_one_channel():
    for architecture in TRUNKS:
        assert min(value.shape[0] for value in Tsn(TsnConfig(architecture, width=0.001)).parameters()) == 1


@pytest.mark.filterwarnings("ignore:.*jit.*deprecated:DeprecationWarning")
def test_a_trace_takes_any_number_of_clips(net):
    traced = torch.jit.trace(net, (clips_of(net.config, 2),))
    more = clips_of(net.config, 5, seed=1)
    with torch.no_grad():
        for batch in (more, more[:1]):
            torch.testing.assert_close(tuple(traced(batch)), tuple(net(batch)))
