"""I3D's published configuration and weight names, through the door that loads them."""

import pytest
import torch

from exporters import published
from exporters.layouts.i3d import LAYOUTS
from models.backbones.i3d import I3d, I3dConfig
from service.errors import InvalidOptions, WeightsMismatch
from tests.support import golden

FORM = LAYOUTS["official"]
SMALL = {"in_channels": 2, "num_classes": 5, "width": 0.125, "clip_frames": 9, "size_px": 32}


def published_state(network):
    state = {FORM.published_name(name): value for name, value in network.state_dict().items()}
    return state | {"logits.conv3d.weight": state["logits.conv3d.weight"][..., None, None]}


def test_names_are_the_published_ones():
    stored = golden.read("i3d/rgb16")
    names = {FORM.published_name(name) for name in I3d(I3dConfig(width=0.125)).state_dict()}
    counters = {name for name in names if name.endswith(".num_batches_tracked")}
    assert names - counters == set(stored.inputs["recipe_check/keys"].tolist())
    assert FORM.published_name("trunk.Mixed_4f.second.1.norm.running_var") == "Mixed_4f.b2b.bn.running_var"


def test_weights_come_back_through_their_published_names():
    torch.manual_seed(0)
    network = I3d(I3dConfig("flow", 5, 0.125, 9, 32)).eval()
    loaded = published.load("i3d", "official", published_state(network), SMALL)
    assert loaded.config == network.config
    clips = 10 * torch.randn(1, 9, 32, 32, 2)
    with torch.no_grad():
        assert torch.equal(loaded(clips).features, network(clips).features)
        assert torch.equal(loaded(clips).scores, network(clips).scores)


def test_a_weight_that_does_not_fit_is_told_by_its_published_name():
    state = published_state(I3d(I3dConfig("flow", 5, 0.125)))
    state["Mixed_3b.b1a.conv3d.weight"] = torch.zeros(3, 24, 1, 1, 1)
    with pytest.raises(WeightsMismatch, match=r"Mixed_3b\.b1a\.conv3d\.weight: expected \(12, 24, 1, 1, 1\)"):
        published.load("i3d", "official", state, SMALL)


def test_what_a_golden_set_says_about_itself_is_not_a_dimension():
    config = golden.read("i3d/flow24").config
    assert FORM.build(config | {"width": 0.125}, {}).config == I3dConfig("flow", 400, 0.125, clip_frames=24)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"widht": 0.5},
            "config has unknown keys widht; accepted are clip_frames, in_channels, num_classes, size_px, width",
        ),
        ({"in_channels": 1}, r"in_channels is 1; accepted are 3 \(RGB\) and 2 \(flow\)"),
        ({"in_channels": [3]}, r"in_channels is \[3\]"),
        ({"num_classes": 0}, r"i3d \(official\): num_classes is 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(InvalidOptions, match=told):
        published.load("i3d", "official", {}, SMALL | options)
