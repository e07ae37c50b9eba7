"""ActionFormer against the numbers of both public implementations, and against its own laws."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from exporters import published
from models.detectors import actionformer_config, actionformer_rules
from models.detectors.actionformer import ActionFormer, ActionFormerOutputs
from models.detectors.actionformer_blocks import PositionEncoding, attend_nearby, chunk_distances
from models.detectors.actionformer_config import ActionFormerConfig
from models.detectors.detector import Candidates
from models.manifest import Windowing
from models.postprocessing import Postprocessing
from service.localization import DetectOptions, Segment
from service.pipeline import segments, windows
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import CandidateLimits, WindowBatch
from tests.support import golden
from tests.support.golden import GoldenSet

SETS = ["local", "anet", "multi"]
VIDEOS = [0, 1, 2]
FORWARD = {"atol": 2e-5, "rtol": 1e-4}


@cache
def official(name: str) -> tuple[GoldenSet, ActionFormer]:
    known = golden.read(f"actionformer/{name}")
    return known, published.load("actionformer", "official", known.state, known.config["model"])


def padded(features: np.ndarray, length: int, filling: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands in padded places is up to the caller, so it is not zero here."""
    filled = torch.full((1, len(features), length), filling)
    filled[0, :, : features.shape[1]] = torch.from_numpy(features)
    return filled, torch.arange(length)[None] < features.shape[1]


def run_video(name: str, video: int) -> tuple[GoldenSet, ActionFormer, ActionFormerOutputs]:
    known, network = official(name)
    length = int(known.outputs[f"eval/{video}/padded_len"])
    with torch.inference_mode():
        return known, network, network(*padded(known.inputs[f"eval/{video}/feats"], length))


@pytest.mark.parametrize("video", VIDEOS)
@pytest.mark.parametrize("name", SETS)
def test_every_level_equals_the_published_network(name: str, video: int) -> None:
    known, _, outputs = run_video(name, video)
    for level, (logits, offsets, mask) in enumerate(zip(*outputs, strict=True)):
        expected = {kind: known.outputs[f"eval/{video}/{kind}/{level}"] for kind in ("cls_logits", "offsets", "mask")}
        np.testing.assert_allclose(logits, expected["cls_logits"], **FORWARD)
        np.testing.assert_allclose(offsets, expected["offsets"], **FORWARD)
        np.testing.assert_array_equal(mask, expected["mask"])


@pytest.mark.parametrize("name", SETS)
def test_every_block_equals_the_published_network(name: str) -> None:
    known, network = official(name)
    length = int(known.outputs["eval/0/padded_len"])
    features, mask = padded(known.inputs["eval/0/feats"], length)
    found = {}
    with torch.inference_mode():
        masks = network.level_masks(features, mask)
        x = found["embed(+pe)"] = network.embedding(features, masks[0])
        for index, block in enumerate(network.stem):
            x = found[f"stem.{index}"] = block(x, masks[0])
        for index, block in enumerate(network.branch):
            x = found[f"branch.{index}"] = block(x, masks[index + 1])
        necks = network.neck(network.backbone(features, masks), masks)
    stages = {key.removeprefix("eval/0/stage/") for key in known.outputs if key.startswith("eval/0/stage/")}
    assert stages == set(found)
    for stage, value in found.items():
        np.testing.assert_allclose(value, known.outputs[f"eval/0/stage/{stage}"], **FORWARD)
    for level, value in enumerate(necks):
        np.testing.assert_allclose(value, known.outputs[f"eval/0/fpn_feats/{level}"], **FORWARD)


def candidates_of(
    network: ActionFormer, outputs: ActionFormerOutputs, rules: Postprocessing, first_snippet: int = 0
) -> windows.Detections:
    found = network.decode(outputs)
    limits = CandidateLimits(
        rules.min_candidate_score, rules.top_k_per_group, rules.top_k_per_window, None, rules.min_length_steps
    )
    mask = outputs.masks[0].numpy()
    batch = WindowBatch(np.zeros((1, 1, mask.shape[1]), np.float32), mask, np.array([first_snippet]))
    raw = (found.spans.numpy(), found.scores.numpy(), found.groups.numpy())
    return replace(windows.place_on_grid(raw, batch, limits, 0), knows_class=True)


def candidate_rules(test_cfg: dict) -> dict:
    return {
        "min_candidate_score": test_cfg["pre_nms_thresh"],
        "top_k_per_group": test_cfg["pre_nms_topk"],
        "min_length_steps": test_cfg["duration_thresh"],
        "score_map": None,
    }


@pytest.mark.parametrize("video", VIDEOS)
@pytest.mark.parametrize("name", ["local", "multi"])
def test_the_window_that_serving_makes_gives_the_published_candidates(name: str, video: int) -> None:
    """It is as short as can be: only a video near the published padding, or beyond it, is padded as there."""
    known, network, outputs = run_video(name, video)
    features = known.inputs[f"eval/{video}/feats"]
    windowing = TypeAdapter(Windowing).validate_python(actionformer_rules.windowing(network.config.lengths))
    length = windows.plan(features.shape[1], windowing).mask.shape[1]
    assert length <= known.outputs[f"eval/{video}/padded_len"]
    with torch.inference_mode():
        served = network(*padded(features, length))
    rules = Postprocessing(**candidate_rules(known.config["test_cfg"]))
    found, expected = (candidates_of(network, one, rules) for one in (served, outputs))
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, **FORWARD)
    np.testing.assert_allclose(found.spans, expected.spans, **FORWARD)


def test_a_short_video_costs_what_it_is_long() -> None:
    windowing = TypeAdapter(Windowing).validate_python(
        actionformer_rules.windowing(actionformer_config.thumos().lengths)
    )
    lengths = {count: windows.plan(count, windowing).mask.shape[1] for count in (1, 300, 2250, 2304, 2305, 54_000)}
    assert lengths == {1: 64, 300: 352, 2250: 2304, 2304: 2304, 2305: 2880, 54_000: 54_144}


@pytest.mark.parametrize("video", VIDEOS)
@pytest.mark.parametrize("name", SETS)
def test_candidates_equal_those_before_published_suppression(name: str, video: int) -> None:
    known, network, outputs = run_video(name, video)
    found = candidates_of(network, outputs, Postprocessing(**candidate_rules(known.config["test_cfg"])))
    expected = {part: known.outputs[f"eval/{video}/pre_nms/{part}"] for part in ("segments", "scores", "labels")}
    assert len(found.scores) == len(expected["scores"])
    # By position, not by score: candidates of nearly equal score come in either order.
    order = np.lexsort((found.spans[:, 1].round(3), found.spans[:, 0].round(3), found.labels))
    theirs = np.lexsort((expected["segments"][:, 1].round(3), expected["segments"][:, 0].round(3), expected["labels"]))
    np.testing.assert_array_equal(found.labels[order], expected["labels"][theirs])
    np.testing.assert_allclose(np.sort(found.scores), np.sort(expected["scores"]), **FORWARD)
    np.testing.assert_allclose(np.sort(found.spans.sum(axis=1)), np.sort(expected["segments"].sum(axis=1)), **FORWARD)


def suppression(kind: str, test_cfg: dict) -> dict:
    """What each of the five detections of a golden video was made with."""
    soft, multiclass = test_cfg["nms_method"] == "soft", test_cfg["multiclass_nms"]
    if kind != "config":
        soft, multiclass = kind.startswith("soft"), "multiclass" in kind
    quirks = {"width_epsilon": 1e-6, "spare_first": soft}
    nms = {
        "kind": "gaussian" if soft else "hard",
        "iou_threshold": test_cfg["iou_threshold"],
        "sigma": test_cfg["nms_sigma"],
        "min_score": test_cfg["min_score"],
        "max_kept": test_cfg["max_seg_num"],
        "quirks": quirks,
    }
    voting = {"iou_threshold": test_cfg["voting_thresh"]} if kind in ("config", "soft_agnostic_voting") else None
    return {"nms": nms, "class_agnostic": not multiclass, "voting": None if multiclass else voting}


def grid_of(meta: dict, duration_s: float) -> SnippetGrid:
    num_frames = round(duration_s * meta["fps"])
    times_s = np.arange(num_frames) / meta["fps"]
    return SnippetGrid(times_s, duration_s, meta["feat_stride"], meta["feat_num_frames"] / 2)


def assert_same_detections(found: list[Segment], spans: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
    """Rank by rank within 1e-3 s and 1e-4; where scores nearly tie, ranks may be swapped.

    Of two that overlap and tie within rounding, soft suppression takes one first and lowers the other. Which one
    depends on the processor, so one such pair may have its scores the other way round.
    """
    assert len(found) == len(scores)
    turned = []
    for rank, segment in enumerate(found):
        assert segment.score == pytest.approx(scores[rank], abs=1e-4)
        same = np.abs(spans - [segment.start_s, segment.end_s]).max(axis=1) <= 1e-3
        same &= labels == int(segment.label)
        assert same.any(), (rank, segment)
        if not (same & (np.abs(scores - segment.score) <= 1e-4)).any():
            turned.append(segment)
    assert len(turned) in {0, 2}, turned
    if turned:
        first, second = turned
        assert max(first.start_s, second.start_s) < min(first.end_s, second.end_s), turned


KINDS = ["config", "soft_multiclass", "soft_agnostic_voting", "hard_multiclass", "hard_agnostic"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("video", VIDEOS)
@pytest.mark.parametrize("name", SETS)
def test_detections_in_seconds_equal_the_published_ones(name: str, video: int, kind: str) -> None:
    known, network, outputs = run_video(name, video)
    test_cfg = known.config["test_cfg"]
    rules = Postprocessing(**candidate_rules(test_cfg), **suppression(kind, test_cfg))
    grid = grid_of(known.config["video_meta"], float(known.outputs[f"eval/{video}/duration"]))
    labels = tuple(str(number) for number in range(network.config.num_classes))
    detections = candidates_of(network, outputs, rules)
    found = segments.finalize(detections, grid, rules, labels, DetectOptions(None, None, None))
    expected = [known.outputs[f"eval/{video}/det/{kind}/{part}"] for part in ("segments", "scores", "labels")]
    assert_same_detections(found, *expected)


# The second video of that set is a window that starts at frame 12; the set does not say so, but every segment shows it.
OPENTAD_WINDOWS = (0, 3, 0)


def test_opentad_gives_the_same_spans_and_scores() -> None:
    known = golden.read("opentad/actionformer")
    network = published.load("actionformer", "opentad", known.state, known.config["model"])
    with torch.inference_mode():
        outputs = network(torch.from_numpy(known.inputs["x"]), torch.from_numpy(known.inputs["mask"]))
        found = network.decode(outputs)
    for video, mask in enumerate(torch.cat(outputs.masks, dim=1)):
        np.testing.assert_allclose(found.spans[video][mask], known.outputs[f"pred/0/{video}"], **FORWARD)
        scores = known.outputs[f"pred/1/{video}"]
        np.testing.assert_allclose(found.scores[video][mask], scores, **FORWARD)
        assert not found.scores[video][~mask].any()


def test_opentad_detections_equal_the_published_ones() -> None:
    known = golden.read("opentad/actionformer")
    network = published.load("actionformer", "opentad", known.state, known.config["model"])
    nms = known.config["nms"]
    test_cfg = {"nms_method": "soft", "multiclass_nms": True, **nms, "nms_sigma": nms["sigma"], "voting_thresh": 0.7}
    rules = Postprocessing(
        min_candidate_score=0.001, top_k_per_window=2000, score_map=None, **suppression("soft_multiclass", test_cfg)
    )
    for video in range(known.config["batch"]):
        with torch.inference_mode():
            features, mask = (torch.from_numpy(known.inputs[name])[video : video + 1] for name in ("x", "mask"))
            outputs = network(features, mask)
        duration_s = float(known.inputs[f"gt/{video}/duration"])
        grid = grid_of({"fps": 30.0, "feat_stride": 4, "feat_num_frames": 16}, duration_s)
        detections = candidates_of(network, outputs, rules, OPENTAD_WINDOWS[video])
        found = segments.finalize(detections, grid, rules, tuple("01234"), DetectOptions(None, None, None))
        rows = known.outputs[f"det/{video}/start_end_score_label"]
        # A span beside the video is clipped to no length at all: they return it, we do not.
        assert len(found) == len(rows) - (rows[:, 0] == rows[:, 1]).sum()
        # Theirs are rounded to 0.01 s and 0.0001, so ranks swap wherever rounded scores tie.
        for segment in found:
            apart = np.abs(rows - [segment.start_s, segment.end_s, segment.score, float(segment.label)])
            assert (apart <= [0.011, 0.011, 1.1e-4, 0]).all(axis=1).any(), segment


LOCAL = ActionFormerConfig(
    (6,), 3, channels=8, neck_channels=8, head_channels=8, heads=2, windows=(5, 5, 5), train_length=64
)
VARIANTS = {
    "plain": LOCAL,
    "pyramid": replace(LOCAL, neck="pyramid", neck_channels=4),
    "later levels only": replace(LOCAL, first_level=1),
    "without norms": replace(LOCAL, embed_norm=False, neck_norm=False, head_norm=False),
    "convolutions": replace(LOCAL, blocks="convolution"),
    "relative positions": replace(LOCAL, relative_positions=True),
    "position encoding": replace(LOCAL, position_encoding=True),
    "everything seen": replace(LOCAL, windows=(5, 5, 0)),
    "several features": replace(LOCAL, input_channels=(4, 2), projected_channels=(5, 3)),
    "stride 4": replace(LOCAL, scale_factor=4),
    "window of three": replace(LOCAL, windows=(3, 3, 3)),
    "wide kernels": replace(LOCAL, head_kernel=7, embed_kernel=9),
    "one layer in heads": replace(LOCAL, head_layers=1),
    "without residual scales": replace(LOCAL, residual_scale=False),
    "OpenTAD": replace(LOCAL, norm_eps=1e-6, mask_after_norm=True),
}


def randomised(config: ActionFormerConfig, seed: int = 0) -> ActionFormer:
    """Weights that let every part matter; at its start a network's residual branches are all but closed."""
    torch.manual_seed(seed)
    network = ActionFormer(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def candidates(network: ActionFormer, features: torch.Tensor, mask: torch.Tensor) -> Candidates:
    with torch.inference_mode():
        return network.decode(network(features, mask))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_padding_further_changes_no_candidate(config: ActionFormerConfig) -> None:
    network = randomised(config)
    step = config.lengths.multiple_of
    real = torch.randn(1, 6, 2 * step - 1)
    shortest = -(-(real.shape[2] + max(config.lengths.margin, step)) // step) * step
    lengths = [shortest, shortest + 2 * step]
    found = []
    for length in lengths:
        features = torch.zeros(1, 6, length)
        features[..., : real.shape[2]] = real
        found.append(candidates(network, features, torch.arange(length)[None] < real.shape[2]))
    for group in found[0].groups.unique():
        short, long = ((part.spans[0][part.groups == group], part.scores[0][part.groups == group]) for part in found)
        rows = len(short[0])
        torch.testing.assert_close(short[1], long[1][:rows], atol=1e-5, rtol=1e-4)
        real_rows = short[1][:, 0] > 0
        torch.testing.assert_close(short[0][real_rows], long[0][:rows][real_rows], atol=1e-4, rtol=1e-4)
        assert not long[1][rows:].any()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_window_without_snippets_gives_no_candidates_and_no_nan(config: ActionFormerConfig) -> None:
    network = randomised(config)
    length = network.config.scale_factor ** (len(config.windows) - 1) * 2
    found = candidates(network, torch.randn(1, 6, length), torch.zeros(1, length, dtype=torch.bool))
    assert not found.scores.any()
    assert found.spans.isfinite().all()


@pytest.mark.parametrize("reach", [1, 2, 4, 9])
@pytest.mark.parametrize("steps", [1, 7, 16, 37])
def test_attention_in_chunks_equals_attention_through_a_band(reach: int, steps: int) -> None:
    torch.manual_seed(steps)
    query, key, value = torch.randn(3, 2, 3, steps, 4).double()
    mask = torch.ones(2, 1, steps).double()
    mask[1, :, steps // 2 + 1 :] = 0
    bias = torch.randn(3, 2 * reach + 1).double()
    found = attend_nearby(query, key, value, mask, reach, chunk_distances(reach), bias)
    distance = torch.arange(steps) - torch.arange(steps)[:, None]
    scores = query @ key.transpose(2, 3) + bias[:, (distance + reach).clamp(0, 2 * reach)]
    seen = (distance.abs() <= reach) & (mask[:, :, None] > 0)
    expected = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ value
    real = mask[:, :, :, None].expand_as(expected) > 0
    torch.testing.assert_close(found[real], expected[real])


def test_positions_are_stretched_only_beyond_the_training_length() -> None:
    encoding = PositionEncoding(8, 32)
    table = encoding.table[None]
    torch.testing.assert_close(encoding(torch.ones(1, 1, 20)), table[..., :20])
    torch.testing.assert_close(encoding(torch.ones(1, 1, 32)), table)
    stretched = torch.nn.functional.interpolate(table, 48, mode="linear", align_corners=False)
    torch.testing.assert_close(encoding(torch.zeros(1, 1, 48)), stretched)


def test_memory_and_cost_follow_the_length_not_its_square() -> None:
    network = ActionFormer(replace(LOCAL, windows=(19,) * 3)).eval()
    length = 40_000
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        network(torch.zeros(1, 6, length), torch.ones(1, length, dtype=torch.bool))
    largest = max(event.self_cpu_memory_usage for event in profile.key_averages())
    assert largest < 40_000 * 4 * 40_000 / 4  # a quarter of one dense attention map


def test_unfit_configurations_are_refused() -> None:
    for changes, told in [
        ({"heads": 3}, "heads 3"),
        ({"scale_factor": 3}, "scale_factor is 3"),
        ({"scale_factor": 0}, "scale_factor is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"channels": -16}, "channels is -16"),
        ({"windows": (5, -3, 5)}, "no negative number"),
        ({"windows": ()}, "one or more windows"),
        ({"input_channels": ()}, "one or more channels"),
        ({"stem_blocks": -1}, "no negative number"),
        ({"embed_kernel": 4}, "must be odd"),
        ({"drop_path": 1}, "drop_path is 1"),
        ({"prior_probability": 1.0}, "prior_probability is 1.0"),
        ({"empty_classes": (7,)}, "beyond the 3"),
        ({"first_level": 3}, "first_level is 3"),
        ({"neck_channels": 4}, "neck_channels 4"),
        ({"input_channels": (3, 3)}, "projected_channels"),
        ({"relative_positions": True, "windows": (4, 4, 4)}, "odd"),
    ]:
        with pytest.raises(ValueError, match=told):
            replace(LOCAL, **changes)
