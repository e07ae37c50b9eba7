"""TadTR against the numbers of its authors' code, and against its own laws."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from exporters import published
from exporters.networks import scatter
from models.detectors import tadtr_config, tadtr_rules
from models.detectors.queries import inverse_sigmoid
from models.detectors.roi_align import roi_align
from models.detectors.tadtr import TadTR, TadTROutputs
from models.detectors.tadtr_config import TadTRConfig
from models.manifest import Windowing
from models.postprocessing import Presets
from service.errors import InvalidOptions, WeightsMismatch
from service.pipeline import windows
from service.pipeline.windows import CandidateLimits, WindowBatch
from tests.support import golden
from tests.support.golden import GoldenSet
from tests.support.networks import SMALL_DETECTORS, scattered

FORWARD = {"atol": 2e-5, "rtol": 1e-4}
WINDOWS = [0, 1, 2]


@cache
def official() -> tuple[GoldenSet, TadTR]:
    known = golden.read("tadtr")
    network = published.load("tadtr", "official", known.state, known.config["full_options"])
    assert isinstance(network, TadTR)
    return known, network


def batch_of(known: GoldenSet, filling: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands in padded places is up to the caller, so it is not zero here."""
    lengths = known.config["lens"]
    features = torch.full((len(lengths), known.config["feature_dim"], max(lengths)), filling)
    for window, length in enumerate(lengths):
        features[window, :, :length] = torch.from_numpy(known.inputs[f"feat/{window}"])
    return features, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@cache
def outputs_of_official() -> TadTROutputs:
    known, network = official()
    with torch.inference_mode():
        return network(*batch_of(known))


def test_every_stage_equals_the_published_network() -> None:
    known, network = official()
    features, mask = batch_of(known)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        assert network.positions is not None
        x = network.project(features * mask[:, None])
        positions = network.positions(mask)
        found["input_proj"], found["pos_embed"] = x, positions.transpose(1, 2)
        x = x.transpose(1, 2)
        for at, layer in enumerate(network.encoder):
            x = found[f"encoder.{at}"] = layer(x, positions + network.level_embed, mask)
        scene = network.scene(features, mask, mask)
        found["memory"] = scene.memory.transpose(1, 2)
        queries = network.queries[:, : network.config.channels]
        found["init_reference"] = network.reference_points(queries).sigmoid().expand(3, -1, -1)
        layers = list(network.decoded(scene))
        found |= {f"decoder.{at}": x for at, (x, _) in enumerate(layers)}
        found["hs"] = torch.stack([x for x, _ in layers])
        found["inter_references"] = torch.stack([segments for _, segments in layers])
        regions = network.regions(scene, layers[-1][1])
        window = torch.arange(3.0)[:, None, None].expand(-1, regions.shape[1], 1)
        found["rois"] = torch.cat([window, regions], dim=2).flatten(0, 1)
        # Pooled where they pooled: features change by several units from one step to the next.
        theirs = torch.from_numpy(known.outputs["stage/rois"])[:, 1:].reshape(regions.shape)
        found["roi_features"] = roi_align(scene.memory.transpose(1, 2), theirs, network.config.bins).flatten(0, 1)
    stages = {key.removeprefix("stage/") for key in known.outputs if key.startswith("stage/")}
    assert stages == set(found)
    for stage, value in found.items():
        tolerance = {"atol": 2e-4, "rtol": 1e-4} if stage == "rois" else FORWARD  # in steps, of which there are 40
        np.testing.assert_allclose(value, known.outputs[f"stage/{stage}"], err_msg=stage, **tolerance)


def test_outputs_of_every_layer_equal_the_published_ones() -> None:
    known, _ = official()
    outputs = outputs_of_official()
    layers = [f"out/aux{layer}" for layer in range(len(outputs.logits) - 1)] + ["out"]
    for name, logits, segments in zip(layers, outputs.logits, outputs.segments, strict=True):
        np.testing.assert_allclose(logits, known.outputs[f"{name}/pred_logits"], **FORWARD)
        np.testing.assert_allclose(segments, known.outputs[f"{name}/pred_segments"], **FORWARD)
    np.testing.assert_allclose(outputs.actionness, known.outputs["out/pred_actionness"][..., 0], **FORWARD)
    assert outputs.steps.tolist() == known.config["lens"]


@pytest.mark.parametrize("window", WINDOWS)
def test_detections_in_seconds_equal_the_published_ones(window: int) -> None:
    known, network = official()
    with torch.inference_mode():
        found = network.decode(outputs_of_official())
    features, mask = batch_of(known)
    one = slice(window, window + 1)
    batch = WindowBatch(features[one].numpy(), mask[one].numpy(), np.array([0]))
    limits = CandidateLimits(top_k_per_window=known.config["full_options"]["postproc_ins_topk"])
    raw = (found.spans[one].numpy(), found.scores[one].numpy(), found.groups.numpy())
    detections = windows.place_on_grid(raw, batch, limits, 0)
    expected = {part: known.outputs[f"det/{window}/{part}"] for part in ("segments", "scores", "labels")}
    np.testing.assert_array_equal(detections.labels, expected["labels"])
    np.testing.assert_allclose(detections.scores, expected["scores"], **FORWARD)
    step_s = known.config["durations"][window] / known.config["lens"][window]
    np.testing.assert_allclose((detections.spans + 0.5) * step_s, expected["segments"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", SMALL_DETECTORS["tadtr"])
def test_published_options_make_the_same_network(variant: str) -> None:
    config = replace(SMALL_DETECTORS["tadtr"][variant], channels=32, norm_groups=32, bins=16)
    network = scattered(TadTR, config)
    name_of = published.find_layout("tadtr", "official").published_name
    state = {f"module.{name_of(name)}": value for name, value in network.state_dict().items()}
    # Of parts that are switched off, and of segment heads under their second name, the files hold weights too.
    state["module.transformer.decoder.segment_embed.0.layers.0.bias"] = torch.zeros(32)
    state.setdefault("module.transformer.level_embed", torch.zeros(1, 32))
    state.setdefault("module.transformer.decoder.layers.0.norm2.bias", torch.zeros(32))
    options = {
        "enc_layers": 1,
        "dec_layers": 2,
        "dim_feedforward": 12,
        "hidden_dim": 32,
        "nheads": 2,
        "dec_n_points": 3,
        "num_queries": 5,
        "slice_len": 16,
        "online_slice": config.padding == "zeros",
        "seg_refine": config.refine,
        "act_reg": config.actionness,
        "disable_query_self_att": not config.query_attention,
        "use_pos_embed": config.positions,
        "activation": config.activation,
    }
    loaded = published.load("tadtr", "official", state, options)
    assert isinstance(loaded, TadTR)
    assert loaded.config == replace(config, resized=False)
    features, mask = torch.randn(2, 6, 16), torch.arange(16) < torch.tensor([16, 9])[:, None]
    with torch.inference_mode():
        for left, right in zip(network(features, mask), loaded(features, mask), strict=True):
            assert torch.equal(left, right)


def test_options_and_weights_that_do_not_fit_are_told() -> None:
    known, _ = official()
    options = known.config["full_options"]
    with pytest.raises(InvalidOptions, match="options has unknown keys colour"):
        published.load("tadtr", "official", known.state, {**options, "colour": "red"})
    with pytest.raises(InvalidOptions, match="position_embedding is 'learned'; accepted are sine, v2"):
        published.load("tadtr", "official", known.state, {**options, "position_embedding": "learned"})
    with pytest.raises(InvalidOptions, match=r"the weights have no class_embed\.0\.weight"):
        published.load("tadtr", "official", {"input_proj.0.0.weight": torch.zeros(64, 20, 1)}, options)
    with pytest.raises(WeightsMismatch, match=r"query_embed\.weight: expected \(11, 128\), found \(10, 128\)"):
        published.load("tadtr", "official", known.state, {**options, "num_queries": 11})


def test_empty_steps_are_part_of_a_window_or_not() -> None:
    """Half a window: its queries speak of half as many steps where padding is masked."""
    features, mask = torch.randn(1, 6, 16), torch.arange(16)[None] < 8
    zeros = scattered(TadTR, SMALL_DETECTORS["tadtr"]["windows"])
    masked = TadTR(replace(zeros.config, padding="masked")).eval()
    masked.load_state_dict(zeros.state_dict())
    with torch.inference_mode():
        assert zeros(features, mask).steps.tolist() == [16.0]
        assert masked(features, mask).steps.tolist() == [8.0]
        whole = torch.ones_like(mask)
        for left, right in zip(zeros(features, whole), masked(features, whole), strict=True):
            assert torch.equal(left, right)
        padded = zeros(features * mask[:, None], whole)
        assert torch.equal(padded.segments, zeros(features, mask).segments)


def test_each_layer_refines_what_the_one_before_found() -> None:
    network = scattered(TadTR, SMALL_DETECTORS["tadtr"]["windows"])
    with torch.no_grad():
        for locate in network.locate:
            locate.layers[-1].weight.zero_()
            locate.layers[-1].bias.copy_(torch.tensor([0.0, -1.0]))
    with torch.inference_mode():
        found = network(torch.randn(1, 6, 16), torch.ones(1, 16, dtype=torch.bool)).segments
    torch.testing.assert_close(found[1, ..., 0], found[0, ..., 0])
    torch.testing.assert_close(
        inverse_sigmoid(found[..., 1]), torch.tensor([-1.0, -2.0])[:, None, None].expand(2, 1, 5)
    )


def test_at_its_start_every_class_is_rare_and_every_query_proposes_a_short_segment() -> None:
    torch.manual_seed(0)
    network = TadTR(tadtr_config.compact(6, 3)).eval()
    with torch.inference_mode():
        outputs = network(torch.randn(2, 6, 128), torch.ones(2, 128, dtype=torch.bool))
    assert 0.002 < outputs.logits.sigmoid().mean() < 0.05
    torch.testing.assert_close(outputs.segments[..., 1], torch.full((3, 2, 40), 0.119), atol=1e-3, rtol=0)
    assert outputs.segments[0, 0, :, 0].std() > 0.05


def test_random_weights_of_an_export_make_no_chaos_of_roundings() -> None:
    """Each layer looks where the one before pointed; with great random steps, single precision would decide where."""
    config = replace(tadtr_config.activitynet(8), channels=64, feedforward_channels=32)
    network = scatter(TadTR(config), seed=0).eval()
    torch.manual_seed(0)
    features, mask = torch.randn(2, 8, 100), torch.ones(2, 100, dtype=torch.bool)
    with torch.inference_mode():
        single = network.decode(network(features, mask)).spans
        double = network.double().decode(network(features.double(), mask)).spans
    torch.testing.assert_close(single, double.float(), rtol=0, atol=2e-5 * single.abs().max().item())
    assert single.std(dim=0).max() > 0.05  # what stands in a window still matters


def test_presets_are_served_in_windows_or_resized() -> None:
    thumos = tadtr_rules.windowing(tadtr_config.thumos().lengths)
    assert thumos == {"mode": "sliding", "length": 128, "hop": 96, "tail": "shift"}
    resized = tadtr_rules.windowing(tadtr_config.activitynet().lengths)
    assert (resized["mode"], resized["length"]) == ("resize", 100)
    for windowing in (thumos, resized):
        TypeAdapter(Windowing).validate_python(windowing)
    assert Presets(**tadtr_rules.thumos()).use.nms is not None
    assert Presets(**tadtr_rules.activitynet()).use.nms is None
    with pytest.raises(ValueError, match="windows of one length"):
        tadtr_rules.windowing(replace(tadtr_config.thumos().lengths, fixed=None))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_channels": (4, 4)}, "takes one kind of feature"),
        ({"heads": 3}, "channels 8 are no multiple of heads 3"),
        ({"norm_groups": 3}, "channels 8 are no multiple of norm_groups 3"),
        ({"queries": 0}, "queries is 0"),
        ({"encoder_layers": -1}, "encoder_layers is -1"),
        ({"roi_scale": 0.0}, "roi_scale is 0.0"),
        ({"prior_probability": 1.0}, "prior_probability is 1.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any], told: str) -> None:
    config: TadTRConfig = SMALL_DETECTORS["tadtr"]["windows"]
    with pytest.raises(ValueError, match=told):
        replace(config, **changes)
