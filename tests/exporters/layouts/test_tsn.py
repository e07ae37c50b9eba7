"""Published weight names of TSN's networks, through the door that loads them."""

import pytest
import torch

from exporters import published
from exporters.layouts.tsn import LAYOUTS
from models.backbones.tsn import SEGMENT_FRAMES, Tsn, TsnConfig
from service.errors import InvalidOptions, WeightsMismatch

SMALL = {"num_classes": 5, "segments": 2, "width": 0.125, "size_px": 64}
ARCHITECTURES = {"mmaction": "resnet50", "torchvision": "resnet50", "tsn-pytorch": "bn_inception"}
NAMES = {
    "mmaction": {
        "trunk.conv1.conv.weight": "backbone.conv1.conv.weight",
        "trunk.conv1.norm.running_mean": "backbone.conv1.bn.running_mean",
        "trunk.layer1.0.conv1.conv.weight": "backbone.layer1.0.conv1.conv.weight",
        "trunk.layer4.2.conv3.norm.bias": "backbone.layer4.2.conv3.bn.bias",
        "trunk.layer2.0.shortcut.conv.weight": "backbone.layer2.0.downsample.conv.weight",
        "trunk.layer2.0.shortcut.norm.weight": "backbone.layer2.0.downsample.bn.weight",
        "classifier.bias": "cls_head.fc_cls.bias",
    },
    "torchvision": {
        "trunk.conv1.conv.weight": "conv1.weight",
        "trunk.conv1.norm.running_mean": "bn1.running_mean",
        "trunk.layer1.0.conv2.conv.weight": "layer1.0.conv2.weight",
        "trunk.layer4.2.conv3.norm.bias": "layer4.2.bn3.bias",
        "trunk.layer2.0.shortcut.conv.weight": "layer2.0.downsample.0.weight",
        "trunk.layer2.0.shortcut.norm.weight": "layer2.0.downsample.1.weight",
        "classifier.bias": "fc.bias",
    },
    "tsn-pytorch": {
        "trunk.conv1_7x7_s2.conv.bias": "base_model.conv1_7x7_s2.bias",
        "trunk.conv2_3x3_reduce.norm.weight": "base_model.conv2_3x3_reduce_bn.weight",
        "trunk.inception_3a.point.conv.weight": "base_model.inception_3a_1x1.weight",
        "trunk.inception_3c.first.0.conv.weight": "base_model.inception_3c_3x3_reduce.weight",
        "trunk.inception_3c.first.1.norm.bias": "base_model.inception_3c_3x3_bn.bias",
        "trunk.inception_4e.second.0.norm.weight": "base_model.inception_4e_double_3x3_reduce_bn.weight",
        "trunk.inception_4e.second.1.conv.weight": "base_model.inception_4e_double_3x3_1.weight",
        "trunk.inception_4e.second.2.conv.bias": "base_model.inception_4e_double_3x3_2.bias",
        "trunk.inception_5b.pooled.1.norm.running_var": "base_model.inception_5b_pool_proj_bn.running_var",
        "classifier.weight": "new_fc.weight",
    },
}
# Read off the published definitions, at full width.
SHAPES = {
    ("mmaction", "flow"): {
        "backbone.conv1.conv.weight": (64, 10, 7, 7),
        "backbone.layer1.0.downsample.conv.weight": (256, 64, 1, 1),
        "backbone.layer4.0.conv2.conv.weight": (512, 512, 3, 3),
        "cls_head.fc_cls.weight": (200, 2048),
    },
    ("torchvision", "rgb"): {
        "conv1.weight": (64, 3, 7, 7),
        "layer3.5.conv1.weight": (256, 1024, 1, 1),
        "layer3.5.bn3.weight": (1024,),
        "fc.weight": (200, 2048),
    },
    ("tsn-pytorch", "flow"): {
        "base_model.conv1_7x7_s2.weight": (64, 10, 7, 7),
        "base_model.conv2_3x3.weight": (192, 64, 3, 3),
        "base_model.inception_3a_pool_proj.weight": (32, 192, 1, 1),
        "base_model.inception_3c_double_3x3_2.weight": (96, 96, 3, 3),
        "base_model.inception_4a_1x1.weight": (224, 576, 1, 1),
        "base_model.inception_4d_double_3x3_reduce.weight": (160, 608, 1, 1),
        "base_model.inception_4e_double_3x3_1.weight": (256, 192, 3, 3),
        "base_model.inception_5a_3x3_reduce.weight": (192, 1056, 1, 1),
        "base_model.inception_5b_double_3x3_1_bn.running_mean": (224,),
        "new_fc.weight": (200, 1024),
    },
}


def published_state(layout, network):
    return {LAYOUTS[layout].published_name(name): value for name, value in network.state_dict().items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_are_the_published_ones(layout):
    ours = Tsn(TsnConfig(ARCHITECTURES[layout], **SMALL)).state_dict()
    assert set(NAMES[layout]) <= set(ours)
    assert {name: LAYOUTS[layout].published_name(name) for name in NAMES[layout]} == NAMES[layout]
    assert len({LAYOUTS[layout].published_name(name) for name in ours}) == len(ours)


@pytest.mark.parametrize(("layout", "kind"), SHAPES)
def test_weights_have_the_published_shapes(layout, kind):
    with torch.device("meta"):
        network = LAYOUTS[layout].build({"kind": kind, "num_classes": 200}, {})
    state = published_state(layout, network)
    wanted = SHAPES[layout, kind]
    assert {name: tuple(state[name].shape) for name in wanted} == wanted


@pytest.mark.parametrize("kind", ["rgb", "flow"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_come_back_through_their_published_names(layout, kind):
    torch.manual_seed(0)
    network = Tsn(TsnConfig(ARCHITECTURES[layout], kind, **SMALL)).eval()
    loaded = published.load("tsn", layout, published_state(layout, network), SMALL | {"kind": kind})
    assert loaded.config == network.config
    frames = 2 * SEGMENT_FRAMES[kind]
    clips = torch.randint(0, 256, (1, frames, 64, 64, 3), dtype=torch.uint8)
    if kind == "flow":
        clips = 10 * torch.randn(1, frames, 64, 64, 2)
    with torch.no_grad():
        assert torch.equal(loaded(clips).features, network(clips).features)
        assert torch.equal(loaded(clips).scores, network(clips).scores)


def test_batch_norm_of_the_oldest_files_which_has_an_axis_more_is_accepted():
    network = Tsn(TsnConfig("bn_inception", **SMALL))
    state = published_state("tsn-pytorch", network)
    state |= {name: value[None] for name, value in state.items() if "_bn." in name and value.dim() == 1}
    loaded = published.load("tsn", "tsn-pytorch", state, SMALL)
    assert torch.equal(loaded.trunk.conv2_3x3.norm.running_var, network.trunk.conv2_3x3.norm.running_var)


def test_a_weight_that_is_missing_is_told_by_its_published_name():
    state = published_state("mmaction", Tsn(TsnConfig(**SMALL)))
    del state["backbone.layer3.5.conv2.conv.weight"]
    with pytest.raises(WeightsMismatch, match=r"backbone\.layer3\.5\.conv2\.conv\.weight: expected .* found nothing"):
        published.load("tsn", "mmaction", state, SMALL)


@pytest.mark.parametrize(
    ("layout", "options", "told"),
    [
        (
            "mmaction",
            {"depth": 50},
            "config has unknown keys depth; accepted are architecture, dropout, kind, num_classes, segments",
        ),
        ("mmaction", {"architecture": "bn_inception"}, "architecture is 'bn_inception'; .* this layout is resnet50"),
        ("tsn-pytorch", {"architecture": "resnet50"}, "architecture is 'resnet50'; .* this layout is bn_inception"),
        ("torchvision", {"num_classes": None}, r"tsn \(torchvision\): num_classes is None; a whole number"),
        ("tsn-pytorch", {"size_px": 112}, r"tsn \(tsn-pytorch\): size_px is 112; bn_inception takes multiples of 32"),
    ],
)
def test_options_that_make_no_sense_are_refused(layout, options, told):
    with pytest.raises(InvalidOptions, match=told):
        published.load("tsn", layout, {}, SMALL | options)
