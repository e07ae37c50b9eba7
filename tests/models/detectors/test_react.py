"""ReAct against the numbers of the released code, against hand-worked relations, and against its own laws."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from exporters import published
from models.catalog import DETECTORS
from models.detectors import react_config, react_rules
from models.detectors.detector import Candidates
from models.detectors.queries import to_centres, to_ends
from models.detectors.react import ReAct, ReActOutputs, RelationalAttention, related
from models.detectors.react_config import ReActConfig
from models.manifest import Windowing
from models.postprocessing import Postprocessing
from service.errors import InvalidOptions, WeightsMismatch
from service.localization import DetectOptions, Segment
from service.pipeline import segments, windows
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import CandidateLimits, WindowBatch
from service.runtime.feature_ops import HostOps
from tests.support import golden
from tests.support.golden import GoldenSet
from training import samples

FORWARD = {"atol": 2e-5, "rtol": 1e-4}
VIDEOS = [0, 1, 2]


def released(known: GoldenSet, **options: Any) -> ReAct:
    """As the layout has it: with fractions of the padded window."""
    config = {
        **known.config["model"],
        "overlap_up_to": known.config["relation_tau"],
        "similarity_above": known.config["relation_gamma"],
        **options,
    }
    network = published.load("react", "official", known.state, config)
    assert isinstance(network, ReAct)
    return network


@cache
def official() -> tuple[GoldenSet, ReAct]:
    known = golden.read("react")
    return known, released(known)


def training_batch(known: GoldenSet) -> tuple[Tensor, Tensor]:
    """As long as the longest clip; what stands in padded places is up to the caller, so it is not zero here."""
    clips = [torch.from_numpy(known.inputs[f"train/{video}/feat"]).T for video in range(len(known.config["n_gt"]))]
    length = max(clip.shape[1] for clip in clips)
    features, mask = torch.full((len(clips), len(clips[0]), length), 3.0), torch.zeros(len(clips), length)
    for row, present, clip in zip(features, mask, clips, strict=True):
        row[:, : clip.shape[1]] = clip
        present[: clip.shape[1]] = 1
    return features, mask.bool()


def test_every_stage_equals_the_published_network() -> None:
    known, network = official()
    features, mask = training_batch(known)
    np.testing.assert_array_equal(mask, ~known.outputs["batch/mask"])
    found: dict[str, Tensor] = {}

    def keep(name: str, module: torch.nn.Module) -> None:
        handles.append(module.register_forward_hook(lambda _module, _given, result: found.update({name: result})))

    handles: list[Any] = []
    keep("input_proj", network.project)
    for index, layer in enumerate(network.encoder):
        keep(f"encoder.{index}", layer)
        keep(f"encoder.{index}.deform_attn", layer.self_attn)
    for index, layer in enumerate(network.decoder):
        keep(f"decoder.{index}", layer)
        keep(f"decoder.{index}.relation_attn", layer.self_attn)
        keep(f"decoder.{index}.cross_attn", layer.cross_attn)
    with torch.inference_mode():
        outputs = network(features, mask)
    for handle in handles:
        handle.remove()
    stages = {key.removeprefix("stage/") for key in known.outputs if key.startswith("stage/")}
    assert {stage for stage in stages if "blocked" not in stage} == set(found)
    real = mask[..., None].numpy()
    for stage, value in found.items():
        expected = known.outputs[f"stage/{stage}"]
        if expected.shape[1] == mask.shape[1]:  # of padded places nothing is asked
            value, expected = value.numpy() * real, expected * real  # noqa: PLW2901
        np.testing.assert_allclose(value, expected, **FORWARD, err_msg=stage)
    np.testing.assert_allclose(outputs.window.memory.numpy() * real, known.outputs["out/memory"] * real, **FORWARD)


def test_answers_of_every_layer_equal_the_published_ones() -> None:
    known, network = official()
    with torch.inference_mode():
        outputs = network(*training_batch(known))
    np.testing.assert_allclose(outputs.logits, known.outputs["out/pred_logits"], **FORWARD)
    np.testing.assert_allclose(outputs.segments, known.outputs["out/pred_seg_cw"], **FORWARD)
    # The published list of references holds the last layer's before the norm that its answer is given after.
    np.testing.assert_allclose(outputs.segments[:-1], known.outputs["out/inter_references"][:-1], **FORWARD)
    queries, placing = network.queries.weight.detach().chunk(2, dim=1)
    np.testing.assert_array_equal(queries, known.outputs["out/initial_query"][:, 0])
    first = network.first_centre(placing).detach().sigmoid()
    np.testing.assert_allclose(first, known.outputs["out/init_reference"][0], **FORWARD)
    quality = outputs.quality.sigmoid()
    np.testing.assert_allclose(quality[..., :1], known.outputs["out/pred_iou"], **FORWARD)
    np.testing.assert_allclose(quality[..., 1:], known.outputs["out/pred_cen"], **FORWARD)


def test_relations_equal_the_published_ones() -> None:
    known, network = official()
    query, spans = (torch.from_numpy(known.inputs[f"relation/{name}"]) for name in ("query", "segments_cw"))
    own = torch.eye(query.shape[1], dtype=torch.bool)
    seen = related(query, spans, known.config["relation_tau"], known.config["relation_gamma"]) | own
    np.testing.assert_array_equal(~seen, known.outputs["relation/blocked_mask"])
    with torch.inference_mode():
        masks = masks_of(network, *training_batch(known))
    assert len(masks) == known.config["model"]["num_decoder_layers"] - 1
    for layer, mask in enumerate(masks, start=1):
        np.testing.assert_array_equal(~mask, known.outputs[f"stage/relation_blocked_mask/layer{layer}"])


def masks_of(network: ReAct, features: Tensor, mask: Tensor) -> list[Tensor]:
    """Which queries attended to which, layer by layer from the second."""
    found = []
    config = network.config

    def look(_module: RelationalAttention, given: tuple[Tensor, Tensor]) -> None:
        query, spans = given
        if spans.shape[2] == 2:
            alike = related(query, spans, config.overlap_up_to, config.similarity_above)
            found.append(alike | torch.eye(config.queries, dtype=torch.bool))

    handles = [layer.self_attn.register_forward_pre_hook(look) for layer in network.decoder]
    network(features, mask)
    for handle in handles:
        handle.remove()
    return found


def test_relations_by_hand() -> None:
    """Four queries: 0 and 1 at nearly the same time, 2 elsewhere, 3 beside 0 with features of its own."""
    ends = torch.tensor([[[0.1, 0.5], [0.1, 0.4], [0.6, 0.9], [0.5, 0.6]]])
    query = torch.tensor([[[1.0, 0.0], [2.0, 0.1], [0.5, 0.5], [0.0, 1.0]]])
    # IoU of 0 and 1 is 0.75. Cosines with 0: 0.999, 0.707, 0; with 1: 0.742 (2), 0.05 (3); of 2 and 3: 0.707.
    allowed = [[False, False, True, False], [False, False, True, False], [True, True, False, True], [False] * 4]
    allowed[3][2] = True
    found = related(query, to_centres(ends), overlap_up_to=0.2, similarity_above=0.2)
    assert found[0].tolist() == allowed  # none with itself, whose IoU is 1
    assert related(query, to_centres(ends), 0.8, 0.2)[0, 0].tolist() == [False, True, True, False]
    assert related(query, to_centres(ends), 0.2, 0.72)[0, 1].tolist() == [False, False, True, False]
    assert related(query, to_centres(ends), 1.0, -1.0).all()


def test_only_related_queries_are_heard() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, channels=2, heads=1, queries=4)
    attention = RelationalAttention(config)
    ends = torch.tensor([[[0.1, 0.5], [0.1, 0.4], [0.6, 0.9], [0.5, 0.6]]])
    query = torch.tensor([[[1.0, 0.0], [2.0, 0.1], [0.5, 0.5], [0.0, 1.0]]])
    other = query.clone()
    other[0, 1] = torch.tensor([4.0, 0.2])  # the same direction, so the same relations
    with torch.inference_mode():
        told, changed = (attention(values, to_centres(ends)) for values in (query, other))
        open_told, open_changed = (attention(values, to_centres(ends)[..., :1]) for values in (query, other))
        alone = attention.value(query[:, :1])
    assert torch.equal(told[0, 0], changed[0, 0])
    assert torch.equal(told[0, 3], changed[0, 3])
    assert not torch.equal(told[0, 2], changed[0, 2])
    assert not torch.equal(open_told[0, 0], open_changed[0, 0])  # where only centres are known, all are heard
    nobody = torch.tensor([[[0.3, 0.2]] * 4])
    with torch.inference_mode():
        deaf = attention(query, nobody)  # all at the same time: each is left with itself
    torch.testing.assert_close(deaf[:, :1], alone + query[:, :1])


def test_relations_can_be_switched_off() -> None:
    torch.manual_seed(0)
    on, off = RelationalAttention(SMALL), RelationalAttention(replace(SMALL, relational=False))
    off.load_state_dict(on.state_dict())
    query, spans = torch.randn(1, SMALL.queries, SMALL.channels), torch.tensor([0.5, 0.3]).expand(1, SMALL.queries, 2)
    with torch.inference_mode():
        assert torch.equal(off(query, spans), off(query, spans[..., :1]))
        assert torch.equal(off(query, spans), on(query, spans[..., :1]))
        assert not torch.equal(off(query, spans), on(query, spans))


def windows_of(known: GoldenSet, features: np.ndarray) -> WindowBatch:
    """As serving cuts a video."""
    length = known.config["model"]["clip_len"]
    rule = TypeAdapter(Windowing).validate_python(react_rules.windowing(replace(SMALL, train_length=length).lengths))
    layout = windows.plan(len(features), rule)
    return next(windows.batches(features, layout, HostOps(), len(layout.mask)))


def detections_of(network: ReAct, batch: WindowBatch, rules: Postprocessing) -> windows.Detections:
    limits = CandidateLimits(max_classes=rules.max_classes_per_candidate)
    with torch.inference_mode():
        found = network.decode(network(torch.from_numpy(batch.features), torch.from_numpy(batch.mask)))
    raw = (found.spans.numpy(), found.scores.numpy(), found.groups.numpy())
    return windows.place_on_grid(raw, batch, limits, 0)


@pytest.mark.parametrize("video", VIDEOS)
def test_candidates_of_whole_videos_equal_the_published_ones(video: int) -> None:
    known, network = official()
    features = known.inputs[f"test/{video}/features"]
    batch = windows_of(known, features)
    np.testing.assert_array_equal(batch.mask.sum(axis=1), known.outputs[f"test/{video}/window_lens"])
    found = detections_of(network, batch, Postprocessing(**react_rules.thumos()["evaluation"]))
    expected = known.outputs[f"test/{video}/raw_start_end_score_class"]
    ours = np.column_stack([(found.spans + 0.5) / len(features), found.scores, found.labels])
    assert ours.shape == expected.shape
    # Theirs stand by class; within a class, and here, by time.
    order, theirs = (np.lexsort((rows[:, 2].round(4), rows[:, 1].round(4), rows[:, 3])) for rows in (ours, expected))
    np.testing.assert_allclose(ours[order], expected[theirs], atol=1e-5)


SUPPRESSIONS = {
    "softnms": react_rules.thumos()["evaluation"]["nms"],
    "hardnms0.4": {"kind": "hard", "iou_threshold": 0.4, "quirks": {"inclusive": False}},
}


@pytest.mark.parametrize("kind", SUPPRESSIONS)
@pytest.mark.parametrize("video", VIDEOS)
def test_detections_of_whole_videos_equal_the_published_ones(video: int, kind: str) -> None:
    known, network = official()
    features = known.inputs[f"test/{video}/features"]
    rules = Postprocessing(**{**react_rules.thumos()["evaluation"], "nms": SUPPRESSIONS[kind]})
    detections = detections_of(network, windows_of(known, features), rules)
    found = segments.finalize(
        detections, seconds_as_snippets(len(features)), rules, tuple("01234"), DetectOptions(None, None, None)
    )
    expected = known.outputs[f"test/{video}/{kind}_start_end_score_class"]
    expected = expected[np.argsort(-expected[:, 2], kind="stable")]
    assert len(found) == len(expected)
    for segment, row in zip(found, expected, strict=True):
        ours = [segment.start_s / len(features), segment.end_s / len(features), segment.score, float(segment.label)]
        np.testing.assert_allclose(ours, row, rtol=1e-4, atol=1e-5)


def seconds_as_snippets(count: int) -> SnippetGrid:
    """A frame a second and a snippet a frame, which stands in the frame's middle."""
    return SnippetGrid(np.arange(count, dtype=np.float64), float(count), 1, 0.5)


def test_training_windows_and_their_actions_equal_the_published_ones() -> None:
    """Which windows a video has, and which actions those keep: at least 75 % of each inside.

    Positions count from the first snippet's beginning here, with nothing beyond it, as fractions of theirs do. Windows
    that keep no action are none of theirs; a video of one window keeps all its actions, also one that sticks out.
    """
    known = golden.read("react")
    length = known.config["windows_clip_len"]
    rule = TypeAdapter(Windowing).validate_python(react_rules.windowing(replace(SMALL, train_length=length).lengths))
    assert rule.hop == length * known.config["windows_stride_rate"]
    columns, actions = [], []
    for video in range(6):
        count = int(known.inputs[f"windows/{video}/num_snippets"])
        truth = known.inputs[f"windows/{video}/gt_cls_mid_len"]
        spans, labels = ends_of(truth) * count, truth[:, 0].astype(np.int64)
        if count <= length:
            spans = spans.clip(0, count)
        layout = windows.plan(count, rule)
        for first, real in zip(layout.first_snippet.tolist(), layout.mask.sum(axis=1).tolist(), strict=True):
            steps = samples.Steps(np.zeros((1, real), np.float32), spans - first, labels, reach=0.0)
            _, kept, inside = samples.cut(steps, real, 0.75, np.random.default_rng(0))
            shares = np.diff(inside)[:, 0] / np.diff(spans[kept])[:, 0]
            if shares.max(initial=0) >= 0.75:  # where none reaches it, ours asks for the best there is
                columns.append((video, real, first, len(kept)))
                actions.append(np.column_stack([labels[kept], inside / real]))
    for column, name in zip(zip(*columns, strict=True), ("video", "len", "first_snippet", "gt_count"), strict=True):
        np.testing.assert_array_equal(column, known.outputs[f"windows/{name}"])
    expected = known.outputs["windows/gt_flat"]
    np.testing.assert_array_equal(np.concatenate(actions)[:, 0], expected[:, 0])
    np.testing.assert_allclose(np.concatenate(actions)[:, 1:], ends_of(expected).clip(0, 1), atol=1e-6)


def ends_of(class_middle_length: np.ndarray) -> np.ndarray:
    return to_ends(torch.from_numpy(class_middle_length[:, 1:])).numpy()


SMALL = ReActConfig(
    (6,), 3, channels=8, heads=2, feed_forward=12, encoder_layers=2, decoder_layers=3, queries=5, train_length=16
)
VARIANTS = {
    "plain": SMALL,
    "without encoder": replace(SMALL, encoder_layers=0),
    "without relations": replace(SMALL, relational=False),
    "one layer": replace(SMALL, decoder_layers=1),
    "other points": replace(SMALL, encoder_points=2, decoder_points=5),
}


def scattered(config: ReActConfig) -> ReAct:
    torch.manual_seed(0)
    network = ReAct(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return network


def candidates(network: ReAct, features: Tensor, mask: Tensor) -> Candidates:
    with torch.inference_mode():
        return network.decode(network(features, mask))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("real", [1, 2, 11])
def test_padding_changes_no_candidate(config: ReActConfig, real: int) -> None:
    network = scattered(config)
    values = torch.randn(1, 6, real)
    exact = candidates(network, values, torch.ones(1, real, dtype=torch.bool))
    for length in (real + 1, 16, 40):
        features = torch.full((1, 6, length), 7.0)
        features[..., :real] = values
        padded = candidates(network, features, torch.arange(length)[None] < real)
        torch.testing.assert_close(padded.spans, exact.spans, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(padded.scores, exact.scores, rtol=1e-4, atol=1e-5)


def test_published_positions_differ_in_padded_windows_only() -> None:
    known, padded = official()
    assert padded.config.padded_positions
    ours = released(known, padded_positions=False)
    features, mask = training_batch(known)
    with torch.inference_mode():
        one, other = (network(features, mask) for network in (padded, ours))
    assert mask[0].all()
    torch.testing.assert_close(one.logits[:, 0], other.logits[:, 0], rtol=1e-4, atol=1e-4)
    assert (one.logits[:, 1:] - other.logits[:, 1:]).abs().amax() > 1e-2
    with torch.inference_mode():
        short = padded(features[1:2, :, mask[1]], mask[1:2, mask[1]])
    torch.testing.assert_close(short.logits[:, 0], other.logits[:, 1], rtol=1e-3, atol=1e-3)
    assert padded.config.lengths.fixed == known.config["model"]["clip_len"]
    assert ours.config.lengths.fixed is None


def test_candidates_are_cut_to_the_real_snippets() -> None:
    network = scattered(SMALL)
    outputs = network(torch.randn(2, 6, 16), torch.arange(16) < torch.tensor([[16], [4]]))
    spans = torch.tensor([[0.5, 2.0], [0.25, 0.5], [0.9, 0.4], [0.5, 0.0], [0.0, 0.0]])
    found = network.decode(outputs._replace(segments=spans.expand(3, 2, 5, 2)))
    assert found.spans[0].tolist()[:2] == [[-0.5, 15.5], [-0.5, 7.5]]
    assert found.spans[1].tolist()[:2] == [[-0.5, 3.5], [-0.5, 1.5]]
    torch.testing.assert_close(found.spans[1, 2], torch.tensor([2.3, 3.5]))


def test_a_score_is_class_times_overlap_times_centre() -> None:
    network = scattered(SMALL)
    outputs = network(torch.randn(1, 6, 16), torch.ones(1, 16, dtype=torch.bool))
    found = network.decode(outputs)
    overlap, centre = outputs.quality[-1].sigmoid().unbind(dim=2)
    torch.testing.assert_close(found.scores[0, 2], outputs.logits[-1, 0, 2].sigmoid() * overlap[0, 2] * centre[0, 2])


def test_windows_of_the_published_protocol() -> None:
    entry = DETECTORS["react"]
    sliding = TypeAdapter(Windowing).validate_python(entry.windowing(react_config.thumos().lengths))
    assert (sliding.length, sliding.hop) == (256, 64)
    assert windows.plan(200, sliding).first_snippet.tolist() == [0]
    found = windows.plan(401, sliding)
    assert found.first_snippet.tolist() == [0, 64, 128, 192]
    assert found.mask.sum(axis=1).tolist() == [256, 256, 256, 209]
    resized = TypeAdapter(Windowing).validate_python(entry.windowing(react_config.activitynet().lengths))
    assert windows.plan(731, resized).mask.shape == (1, 100)


def test_the_presets_are_the_published_ones() -> None:
    thumos, activitynet = react_config.thumos(), react_config.activitynet()
    assert (thumos.queries, thumos.encoder_layers, thumos.decoder_layers) == (40, 2, 4)
    assert (thumos.overlap_up_to, thumos.similarity_above, thumos.train_length) == (0.2, 0.2, 256)
    assert (activitynet.queries, activitynet.encoder_layers, activitynet.decoder_layers) == (60, 3, 4)
    assert (activitynet.overlap_up_to, activitynet.similarity_above) == (0.9, -0.2)
    assert activitynet.lengths.fixed == 100


def test_video_level_scores_join_those_of_segments() -> None:
    """Each segment, however its own classes stand, becomes one of each of the video's two likeliest classes."""
    rules = Postprocessing(**react_rules.activitynet_fused()["evaluation"])
    detections = windows.Detections(
        np.array([[0.0, 4.0], [10.0, 14.0]]), np.array([0.5, 0.2]), np.array([2, 0]), np.zeros(2, np.int64)
    )
    video_scores = np.array([0.1, 0.6, 0.3])
    grid = seconds_as_snippets(20)
    options = DetectOptions(None, None, None)
    found = segments.finalize(detections, grid, rules, ("a", "b", "c"), options, video_scores)
    expected = [("b", 0.30), ("c", 0.15), ("b", 0.12), ("c", 0.06)]
    assert [(segment.label, pytest.approx(segment.score)) for segment in found] == expected
    assert isinstance(found[0], Segment)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"input_channels": (4, 2)}, r"input_channels is \(4, 2\); one kind"),
        ({"channels": 9}, "no multiple of heads"),
        ({"queries": 0}, "queries is 0"),
        ({"overlap_up_to": 1.5}, "overlap_up_to is 1.5"),
        ({"similarity_above": 1.0}, "similarity_above is 1.0"),
        ({"encoder_layers": -1}, "encoder_layers is -1"),
        ({"prior_probability": 0.0}, "prior_probability is 0.0"),
    ],
)
def test_a_configuration_without_sense_is_told(change: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **change)


def test_published_weights_that_do_not_fit_are_told_by_their_names() -> None:
    known = golden.read("react")
    state = {name: value for name, value in known.state.items() if name != "cen_predictor.bias"}
    with pytest.raises(WeightsMismatch, match=r"cen_predictor\.bias: expected \(1,\), found nothing"):
        published.load("react", "official", state, known.config["model"])
    with pytest.raises(InvalidOptions, match="unknown keys relation"):
        published.load("react", "official", known.state, {**known.config["model"], "relation": 1})
    wrapped = {f"module.{name}": value for name, value in known.state.items()}
    assert isinstance(published.load("react", "official", wrapped, known.config["model"]), ReAct)


def test_outputs_are_those_of_every_layer() -> None:
    outputs = scattered(SMALL)(torch.randn(2, 6, 16), torch.ones(2, 16, dtype=torch.bool))
    assert isinstance(outputs, ReActOutputs)
    assert outputs.logits.shape == (3, 2, 5, 3)
    assert outputs.segments.shape == outputs.quality.shape == (3, 2, 5, 2)
    assert outputs.window.memory.shape == (2, 16, 8)
