"""AFSD against the published heads: pyramid, both stages, decoding, suppression; and our own stem, masks and fusion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters import networks as exported_networks
from exporters import published
from exporters.recipe import NetworkRecipe
from models.detectors import afsd_config, afsd_rules
from models.detectors.afsd import Afsd, AfsdOfMaps, MaskedGroupNorm, RunOutputs
from models.detectors.afsd_config import AfsdConfig
from models.detectors.detector import Candidates
from models.postprocessing import Postprocessing
from service.errors import InvalidOptions, WeightsMismatch
from service.localization import DetectOptions
from service.pipeline import segments, windows
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import CandidateLimits, WindowBatch
from tests.support import golden, networks
from tests.support.golden import GoldenSet

FORWARD = {"atol": 2e-5, "rtol": 1e-4}
SMALL = AfsdConfig((6,), 3, channels=16, groups=2, levels=3, length=16)


def yaml_of(known: GoldenSet) -> dict:
    clip = {"clip_length": known.config["frame_num"]}
    return {"dataset": {"num_classes": known.config["num_classes"], "training": clip}}


def published_network(known: GoldenSet) -> AfsdOfMaps:
    network = published.load("afsd", "official", known.state, yaml_of(known))
    assert isinstance(network, AfsdOfMaps)
    return network


def maps_of(known: GoldenSet) -> tuple[list[Tensor], Tensor]:
    maps = [torch.from_numpy(known.inputs[name]) for name in ("Mixed_4f", "Mixed_5c")]
    return maps, torch.ones(maps[0].shape[0], maps[0].shape[2], dtype=torch.bool)


@pytest.fixture(scope="module")
def known() -> GoldenSet:
    return golden.read("afsd_heads")


@pytest.fixture(scope="module")
def run(known: GoldenSet) -> RunOutputs:
    with torch.inference_mode():
        return published_network(known)(*maps_of(known)).runs[0]


def test_both_stages_equal_the_published_ones(known: GoldenSet, run: RunOutputs) -> None:
    expected = {
        "loc": run.distances,
        "conf": run.logits,
        "prop_loc": run.corrections,
        "prop_conf": run.refined_logits,
        "center": run.fits[..., None],
        "priors": run.points[None, :, None] / known.config["frame_num"],
    }
    for name, found in expected.items():
        np.testing.assert_allclose(found, known.outputs[f"out/{name}"], **FORWARD, err_msg=name)


def test_boundary_maps_equal_the_published_ones(known: GoldenSet, run: RunOutputs) -> None:
    np.testing.assert_allclose(run.maps.frames, known.outputs["stage/frame_level"], **FORWARD)
    for name, maps in (("", run.maps.frames), ("_loc_prop", run.maps.location), ("_conf_prop", run.maps.classes)):
        start, end = maps.transpose(1, 2).chunk(2, dim=2)
        np.testing.assert_allclose(start, known.outputs[f"out/start{name}"], **FORWARD)
        np.testing.assert_allclose(end, known.outputs[f"out/end{name}"], **FORWARD)


def test_every_level_of_the_pyramid_equals_the_published_one(known: GoldenSet) -> None:
    network, (maps, mask) = published_network(known), maps_of(known)
    masks = [mask[:, None, :: 2**level].float() for level in range(6)]
    with torch.inference_mode():
        coarser = network.run.stem.levels[1](maps[1], masks[1])
        levels = network.run.stem(maps, masks)
        for name, conv in network.run.heads.pyramid.items():
            levels.append(conv(levels[-1], masks[int(name)]))
    own = [network.run.stem.levels[0](maps[0], masks[0]), coarser, *levels[2:]]
    for level, found in enumerate(own):
        stored = known.outputs[f"stage/pyramid.{level}"]
        np.testing.assert_allclose(found.detach(), stored.reshape(found.shape), **FORWARD)
    before_joining = float(own[0].detach().double().sum())
    assert before_joining == pytest.approx(float(known.outputs["stage/note_level0_sum"]), rel=1e-5)


def test_regions_around_proposals_equal_the_published_ones(known: GoldenSet, run: RunOutputs) -> None:
    heads = published_network(known).run.heads
    counts = [32, 16]
    per_level = zip(run.distances.split([*counts, 15], 1)[:2], run.points.split([*counts, 15])[:2], strict=True)
    for level, (distances, points) in enumerate(per_level):
        regions = heads._regions(level, distances, points)
        stored = [known.outputs[f"stage/loc_branch_pool/{2 * level + part}/segments"] for part in range(2)]
        np.testing.assert_array_equal(regions.level, stored[0])
        np.testing.assert_array_equal(regions.frames, stored[1])


def decoded(known: GoldenSet) -> tuple[AfsdOfMaps, Candidates]:
    network = published_network(known)
    with torch.inference_mode():
        return network, network.decode(network(*maps_of(known)))


@pytest.mark.parametrize("video", [0, 1])
def test_candidates_equal_the_published_ones(known: GoldenSet, video: int) -> None:
    network, found = decoded(known)
    frames = (found.spans[video] + 0.5) * network.config.frames_per_step
    np.testing.assert_allclose(frames, known.outputs[f"decode/{video}/segments_frames"], **FORWARD)
    # Theirs tell the background's score too.
    np.testing.assert_allclose(found.scores[video].T, known.outputs[f"decode/{video}/class_scores"][1:], **FORWARD)
    assert found.groups.bincount().tolist() == [32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize("video", [0, 1])
def test_detections_in_seconds_equal_the_published_ones(known: GoldenSet, video: int) -> None:
    network, found = decoded(known)
    per_step, fps, classes = network.config.frames_per_step, known.config["sample_fps"], network.config.num_classes
    start_step = known.config["offset"][video] // per_step
    batch = WindowBatch(np.zeros((1, 1, 1), np.float32), np.ones((1, 1), bool), np.array([start_step]))
    rules = Postprocessing(**afsd_rules.thumos()["evaluation"])
    raw = (found.spans[video : video + 1].numpy(), found.scores[video : video + 1].numpy(), found.groups.numpy())
    detections = windows.place_on_grid(raw, batch, CandidateLimits(rules.min_candidate_score), 0)
    num_frames = known.config["frame_num"] + known.config["offset"][video]
    # Frame f is f / fps seconds; step i is centred on frame (i + 0.5) · frames_per_step.
    grid = SnippetGrid(np.arange(num_frames) / fps, num_frames / fps, per_step, per_step / 2)
    labels = tuple(str(number + 1) for number in range(classes))
    kept = segments.finalize(detections, grid, rules, labels, DetectOptions(None, None, None))
    rows = known.outputs[f"det/{video}/start_end_score_class"]
    # Corrections can turn a span around: they return it, we do not.
    assert len(kept) == len(rows) - (rows[:, 1] <= rows[:, 0]).sum()
    for segment in kept:
        apart = np.abs(rows - [segment.start_s, segment.end_s, segment.score, float(segment.label)])
        assert (apart <= [1e-3, 1e-3, 1e-5, 0]).all(axis=1).any(), segment


def test_a_whole_checkpoint_loads_and_its_heads_serve_snippet_features(known: GoldenSet) -> None:
    state = {**known.state, "backbone._model.Conv3d_1a_7x7.conv3d.weight": torch.zeros(1)}
    maps = published.load("afsd", "official", state, yaml_of(known))
    config = replace(maps.config, stem="temporal", input_channels=(10,))
    network = Afsd(config).eval()
    network.runs[0].heads.load_state_dict(maps.run.heads.state_dict())
    with torch.inference_mode():
        stem = maps.run.stem(*maps_and_masks(known))
        features, masks = torch.randn(2, 10, 32), maps_and_masks(known)[1]
        found, _ = network.runs[0].heads(stem, masks)
        served = network.decode(network(features, torch.ones(2, 32, dtype=torch.bool)))
    # The masked norm sums in another order, which the coarsest level's groups of two numbers amplify.
    np.testing.assert_allclose(found["logits"][:, :60], known.outputs["out/conf"][:, :60], atol=1e-4, rtol=1e-3)
    assert served.scores.shape == (2, 63, 5)


def maps_and_masks(known: GoldenSet) -> tuple[list[Tensor], list[Tensor]]:
    maps, mask = maps_of(known)
    return maps, [mask[:, None, :: 2**level].float() for level in range(6)]


def test_weights_and_configurations_that_do_not_fit_are_told(known: GoldenSet) -> None:
    config = yaml_of(known)
    with pytest.raises(InvalidOptions, match="num_classes is 9; the weights tell 6 apart"):
        published.load("afsd", "official", known.state, {"dataset": {**config["dataset"], "num_classes": 9}})
    with pytest.raises(InvalidOptions, match="lacks 'dataset'"):
        published.load("afsd", "official", known.state, {})
    with pytest.raises(InvalidOptions, match="unknown keys heads"):
        published.load("afsd", "official", known.state, {**config, "heads": 3})
    lacking = {name: value for name, value in known.state.items() if "center_head" not in name}
    with pytest.raises(WeightsMismatch, match="center_head"):
        published.load("afsd", "official", lacking, config)


def test_published_heads_are_no_detector_of_snippet_features(known: GoldenSet, tmp_path: Path) -> None:
    np.savez(tmp_path / "heads.npz", **{name: value.numpy() for name, value in known.state.items()})
    wanted = NetworkRecipe(network="afsd", layout="official", config=yaml_of(known), weights="heads.npz")
    with pytest.raises(InvalidOptions, match="make a AfsdOfMaps, which takes no snippet features"):
        exported_networks.detector(wanted, tmp_path)


def test_the_published_pyramid_of_one_map_has_its_own_units() -> None:
    config = replace(
        afsd_config.activitynet(), stem="spatial", input_channels=(4,), channels=64, length=32, resized=True
    )
    theirs = AfsdOfMaps(config)
    named = {published.LAYOUTS["afsd"]["official"].published_name(n): v for n, v in theirs.state_dict().items()}
    yaml = {"dataset": {"num_classes": 201, "training": {"clip_length": 256}}}
    found = published.load("afsd", "official", named, yaml)
    assert isinstance(found, AfsdOfMaps)
    assert found.config == replace(config, resized=False)
    with torch.inference_mode():
        outputs = found([torch.randn(1, 4, 32, 3, 3)], torch.ones(1, 32, dtype=torch.bool))
    assert found.decode(outputs).scores.shape == (1, 63, 1)


def test_masked_group_norm_of_a_full_window_is_group_norm() -> None:
    torch.manual_seed(0)
    plain, masked = nn.GroupNorm(4, 8), MaskedGroupNorm(4, 8)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    masked.load_state_dict(plain.state_dict())
    x = 3 + torch.randn(2, 8, 10)
    torch.testing.assert_close(masked(x, torch.ones(2, 1, 10)), plain(x), atol=1e-6, rtol=1e-5)


def test_masked_group_norm_of_a_padded_window_is_that_of_its_real_steps() -> None:
    torch.manual_seed(0)
    norm = MaskedGroupNorm(4, 8)
    x = 3 + torch.randn(1, 8, 10)
    alone = norm(x[..., :6], torch.ones(1, 1, 6))
    x[..., 6:] = 1e3
    found = norm(x, (torch.arange(10) < 6).float()[None, None])
    torch.testing.assert_close(found[..., :6], alone, atol=1e-6, rtol=1e-5)


def test_a_step_is_centred_on_its_point_and_spans_end_with_the_window() -> None:
    network = networks.scattered(Afsd, SMALL)
    with torch.inference_mode():
        outputs = network(torch.randn(2, 6, 16), torch.ones(2, 16, dtype=torch.bool))
        found = network.decode(outputs)
    positions = outputs.runs[0].points / 4 - 0.5
    assert positions.tolist() == [*range(16), *np.arange(0.5, 16, 2), *np.arange(1.5, 16, 4)]
    assert found.spans.min() >= -0.5
    assert found.spans.max() <= 15.5


def test_late_fusion_averages_the_candidates_of_two_runs() -> None:
    config = replace(SMALL, input_channels=(4, 2), fusion="late")
    network = networks.scattered(Afsd, config)
    features, mask = torch.randn(2, 6, 16), torch.arange(16) < torch.tensor([[16], [9]])
    alone = []
    with torch.inference_mode():
        for index, part in enumerate(features.split([4, 2], dim=1)):
            single = Afsd(replace(SMALL, input_channels=(part.shape[1],))).eval()
            single.runs[0].load_state_dict(network.runs[index].state_dict())
            alone.append(single.decode(single(part, mask)))
        both = network.decode(network(features, mask))
    torch.testing.assert_close(both.spans, (alone[0].spans + alone[1].spans) / 2)
    torch.testing.assert_close(both.scores, (alone[0].scores + alone[1].scores) / 2)
    assert (alone[0].spans - alone[1].spans).abs().max() > 0.1


def test_one_network_may_see_several_kinds_of_feature_at_once() -> None:
    network = Afsd(replace(SMALL, input_channels=(4, 2)))
    assert len(network.runs) == 1
    assert network.runs[0].stem.levels[0].conv.in_channels == 6


def test_distances_stay_finite_whatever_a_head_says() -> None:
    network = networks.scattered(Afsd, SMALL)
    with torch.no_grad():
        network.runs[0].heads.locate.bias.fill_(1e4)
        found = network.decode(network(torch.randn(1, 6, 16), torch.ones(1, 16, dtype=torch.bool)))
    assert found.spans.isfinite().all()
    assert found.scores.isfinite().all()


def test_windows_overlap_by_half_and_resized_videos_are_one_window() -> None:
    assert afsd_rules.windowing(afsd_config.thumos().lengths) == {
        "mode": "sliding",
        "length": 64,
        "hop": 32,
        "tail": "shift",
    }
    assert afsd_rules.windowing(afsd_config.activitynet().lengths)["mode"] == "resize"


def test_unfit_configurations_are_refused() -> None:
    for changes, told in [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"length": 18}, "length 18 is no multiple of 4"),
        ({"channels": 18}, "twice the groups 2"),
        ({"stem_levels": 3}, "stem_levels is 3"),
        ({"levels": 1}, "stem_levels is 2 of 1 levels"),
        ({"input_channels": ()}, "one kind of feature or more"),
        ({"input_channels": (0,)}, "input_channels is 0"),
        ({"distance_units_frames": (1.0, 2.0)}, "one per level"),
        ({"distance_units_frames": (1.0, 2.0, 0.0)}, "above 0"),
        ({"fusion": "late"}, "two kinds of feature or more"),
        ({"stem": "spatial"}, "takes 2 maps"),
    ]:
        with pytest.raises(ValueError, match=told):
            replace(SMALL, **changes)


def test_each_network_takes_its_own_stem() -> None:
    spatial = replace(SMALL, stem="spatial", input_channels=(4, 2))
    with pytest.raises(ValueError, match="AfsdOfMaps"):
        Afsd(spatial)
    with pytest.raises(ValueError, match="need 'spatial'"):
        AfsdOfMaps(SMALL)
