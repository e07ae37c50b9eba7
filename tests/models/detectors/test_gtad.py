"""G-TAD against the numbers of both branches of its authors' code and of OpenTAD, and against its own laws."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from exporters import published
from models.detectors import gtad, gtad_config, gtad_rules
from models.detectors.gtad import Gtad, GtadOutputs, cell_regions, cell_steps, nearest, neighbours_of
from models.detectors.gtad_config import GtadConfig
from models.detectors.roi_align import roi_align
from models.postprocessing import Postprocessing
from service.errors import InvalidOptions
from service.localization import DetectOptions
from service.pipeline import segments, windows
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import CandidateLimits, Detections, WindowBatch
from tests.support import golden, networks
from tests.support.golden import GoldenSet

FORWARD = {"atol": 1e-5, "rtol": 1e-4}
SETS = {"master": "gtad_master", "anet": "gtad_anet", "opentad": "opentad/gtad"}
BRANCHES = ["master", "anet"]
VIDEOS = [0, 1, 2]


@cache
def official(layout: str) -> tuple[GoldenSet, Gtad, GtadOutputs]:
    known = golden.read(SETS[layout])
    network = published.load("gtad", layout, known.state, known.config.get("opt") or known.config["model"])
    assert isinstance(network, Gtad)
    with torch.inference_mode():
        return known, network, network(*whole(known))


def whole(known: GoldenSet) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.from_numpy(known.inputs["x"])
    return features, torch.ones(features.shape[0], features.shape[2], dtype=torch.bool)


@pytest.mark.parametrize("layout", BRANCHES)
def test_map_and_boundaries_equal_the_published_network(layout: str) -> None:
    known, _, outputs = official(layout)
    found = torch.stack([outputs.overlap, outputs.high], dim=1).sigmoid()
    np.testing.assert_allclose(found, known.outputs["conf_map"], **FORWARD)
    np.testing.assert_allclose(outputs.starts.sigmoid(), known.outputs["start"], **FORWARD)
    np.testing.assert_allclose(outputs.ends.sigmoid(), known.outputs["end"], **FORWARD)


@pytest.mark.parametrize("layout", BRANCHES)
def test_every_layer_equals_the_published_network(layout: str) -> None:
    known, network, _ = official(layout)
    features, mask = whole(known)
    with torch.inference_mode():
        stem = network.stem(features)
        base, heard = network.first(stem.relu(), mask)
        top, heard_next = network.second(base, mask)
        context = network._context(top, [heard, heard_next], mask)
    assert context is not None
    for stage, value in (
        ("conv0", stem),
        ("base_feature", base),
        ("gcnext_feature", top),
        ("context_feature", context),
    ):
        np.testing.assert_allclose(value, known.outputs[f"stage/{stage}"], **FORWARD)
    for stage, index in (
        ("knn_idx_layer1", heard),
        ("knn_idx_layer2", heard_next),
        ("context_knn", nearest(top, mask, 3)),
    ):
        np.testing.assert_array_equal(np.sort(index, axis=2), np.sort(known.outputs[f"stage/{stage}"], axis=2))


@pytest.mark.parametrize("layout", BRANCHES)
def test_cells_see_the_published_regions_and_pool_the_published_features(layout: str) -> None:
    known, network, _ = official(layout)
    config = network.config
    regions, place = cell_regions(config)
    by_cell = regions[place].reshape(config.max_duration, config.length, 2)
    np.testing.assert_array_equal(by_cell.transpose(1, 0, 2).reshape(-1, 2), known.outputs["anchors_item0"][:, 1:])
    kinds = (("gcnext_feature", config.inner_bins), ("context_feature", config.context_bins))
    spans = torch.from_numpy(regions[place])[None]
    pooled = torch.cat(
        [roi_align(torch.from_numpy(known.outputs[f"stage/{name}"][:1]), spans, bins, 200) for name, bins in kinds], 3
    )
    found = pooled[0].flatten(1).T.reshape(-1, config.max_duration, config.length)
    kept = known.outputs["stage/subgraph_channels_kept"]
    np.testing.assert_allclose(found[kept], known.outputs["stage/subgraph_map_item0_first_ch"], **FORWARD)


@pytest.mark.parametrize("context", ["none", "last", "all"])
@pytest.mark.parametrize("context_bins", [4, 2])
def test_projecting_before_pooling_is_pooling_before_projecting(
    context: gtad_config.Context, context_bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gtad, "CHUNK", 600)  # several parts
    config = replace(networks.SMALL_DETECTORS["gtad"]["windows"], context=context, context_bins=context_bins)
    torch.manual_seed(0)
    align = gtad.SubgraphAlign(config)
    assert len(align.chunks) > 2
    x, around = torch.randn(2, 2, 8, 16)
    kinds = [(x, 4)] if context == "none" else [(x, 4), (around, context_bins)]
    spans = align.spans[align.place][None].expand(2, -1, -1)
    cells = torch.cat([roi_align(part, spans, bins, 64) for part, bins in kinds], dim=3).flatten(2)
    wanted = align.project(cells).transpose(1, 2).unflatten(2, (8, 16))
    found = align(x, None if context == "none" else around, torch.ones(2, 16, dtype=torch.bool))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_opentad_equals_up_to_its_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """It pools features rounded to half precision; pooling such ones, the network gives its numbers."""
    known, network, outputs = official("opentad")
    maps = torch.stack([outputs.high, outputs.overlap], dim=1)
    np.testing.assert_allclose(maps, known.outputs["pred/1"], atol=1e-3 * np.abs(known.outputs["pred/1"]).max())
    boundaries = torch.stack([outputs.starts, outputs.ends], dim=1)
    np.testing.assert_allclose(boundaries, known.outputs["pred/0"], atol=2e-5, rtol=1e-4)
    align = network.align.forward
    monkeypatch.setattr(
        network.align, "forward", lambda x, context, mask: align(x.half().float(), context.half().float(), mask)
    )
    with torch.inference_mode():
        rounded = network(*whole(known))
    maps = torch.stack([rounded.high, rounded.overlap], dim=1)
    np.testing.assert_allclose(maps, known.outputs["pred/1"], atol=2e-5, rtol=1e-4)


def by_position(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort((rows[:, 3], np.round(rows[:, 1], 3), np.round(rows[:, 0], 3)))]


def raw(layout: str, video: int) -> tuple[np.ndarray, np.ndarray]:
    """Spans and scores of the candidates of one video, on the grid."""
    _, network, outputs = official(layout)
    with torch.inference_mode():
        found = network.decode(outputs)
    kept = found.scores[video, :, 0] > 0
    return found.spans[video][kept].numpy(), found.scores[video][kept][:, 0].numpy()


@pytest.mark.parametrize("video", VIDEOS)
@pytest.mark.parametrize("layout", BRANCHES)
def test_candidates_equal_the_published_ones(layout: str, video: int) -> None:
    known, network, _ = official(layout)
    spans, scores = raw(layout, video)
    if layout == "master":
        spans = spans * 5 + known.inputs[f"gt/{video}/window_first_frame"]
    else:
        spans = (spans + 0.5) / network.config.length
    expected = known.outputs[f"proposals/{video}"]
    found = by_position(np.column_stack([spans, scores]))
    wanted = by_position(np.column_stack([expected[:, :2], expected[:, 2] * expected[:, 3]]))
    np.testing.assert_allclose(found, wanted, **FORWARD)


def as_sorted_by_pandas(proposals: np.ndarray) -> Detections:
    """Published candidates, of which many score exactly 1, in the order that the published code puts them in."""
    scores = proposals[:, 2] * proposals[:, 3]
    order = np.arange(len(scores))[::-1][scores[::-1].argsort(kind="quicksort")][::-1]
    where = np.zeros(len(scores), np.int64)
    return Detections(proposals[order, :2] * 32 - 0.5, scores[order], where, where, knows_class=False)


def detected(layout: str, video: int) -> Detections:
    """Candidates of one video as serving reads them off the network's outputs."""
    _, network, outputs = official(layout)
    with torch.inference_mode():
        raw = tuple(part.numpy() for part in network.decode(outputs))
    one = (raw[0][video : video + 1], raw[1][video : video + 1], raw[2])
    length = network.config.length
    batch = WindowBatch(np.zeros((1, 1, length), np.float32), np.ones((1, length), bool), np.zeros(1, np.int64))
    return windows.place_on_grid(one, batch, CandidateLimits(), 0)


def found_in(
    layout: str, video: int, rules: dict[str, object], grid: SnippetGrid, fused: bool = True
) -> list[list[float]]:
    """Segments of one video as serving makes them: start, end, score, label."""
    known, _, _ = official(layout)
    published = layout == "anet"
    detections = as_sorted_by_pandas(known.outputs[f"proposals/{video}"]) if published else detected(layout, video)
    fusion = {"fusion": {"rule": "product", "classes": 2}} if fused else {}
    settings = Postprocessing.model_validate({**rules, **fusion})
    scores = known.inputs["video_cls_scores"][video] if fused else None
    labels = tuple(map(str, range(6)))
    answers = segments.finalize(detections, grid, settings, labels, DetectOptions(min_score=0.0), scores)
    return [[s.start_s, s.end_s, s.score, float(s.label)] for s in answers]


@pytest.mark.parametrize("video", VIDEOS)
def test_detections_on_activitynet_equal_the_published_ones(video: int) -> None:
    known, _, _ = official("anet")
    duration_s = float(known.inputs[f"gt/{video}/duration_second"])
    grid = SnippetGrid(np.arange(320) / 320 * duration_s, duration_s, 10.0, 5.0)
    found = np.array(found_in("anet", video, gtad_rules.activitynet()["evaluation"], grid))
    expected = known.outputs[f"det/{video}"]
    np.testing.assert_allclose(in_order(found), in_order(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("video", VIDEOS)
def test_detections_on_thumos_equal_the_published_ones(video: int) -> None:
    """Theirs are rounded to a tenth of a second."""
    known, _, _ = official("master")
    fps = float(known.outputs[f"det/{video}/fps"])
    first, count = int(known.inputs[f"gt/{video}/window_first_frame"]), int(known.outputs[f"det/{video}/num_frames"])
    grid = SnippetGrid(np.arange(count) / fps, count / fps, 5.0, float(first))
    found = np.array(found_in("master", video, gtad_rules.thumos()["evaluation"], grid))
    expected = known.outputs[f"det/{video}"]
    place = {label: at for at, label in enumerate(known.outputs[f"det/{video}/label_ids"])}
    expected[:, 3] = [place[label] for label in expected[:, 3]]
    assert len(found) == len(expected)
    np.testing.assert_allclose(np.sort(found[:, 2]), np.sort(expected[:, 2]), rtol=1e-4, atol=2e-6)
    best = np.argsort(-found[:, 2], kind="stable")[:20], np.argsort(-expected[:, 2], kind="stable")[:20]
    np.testing.assert_allclose(found[best[0]][:, :2], expected[best[1]][:, :2], atol=0.051)
    np.testing.assert_array_equal(found[best[0]][:, 3], expected[best[1]][:, 3])


@pytest.mark.parametrize("video", [0, 1])
def test_detections_of_opentad_equal_the_published_ones(video: int) -> None:
    known, _, _ = official("opentad")
    duration_s = float(known.inputs[f"gt/{video}/duration"])
    grid = SnippetGrid(np.arange(240) / 240 * duration_s, duration_s, 10.0, 5.0)
    rules = {
        "nms": {
            "kind": "gaussian",
            "sigma": 0.8,
            "max_kept": 100,
            "quirks": {"width_epsilon": 1e-6, "spare_first": True},
        },
        "class_agnostic": True,
        "voting": {"iou_threshold": 0.95, "weight": "score"},
        "score_map": None,
    }
    found = np.array(found_in("opentad", video, rules, grid, fused=False))
    expected = known.outputs[f"det/{video}/start_end_score_label"]
    told = expected[:, 2] > 1e-3
    np.testing.assert_allclose(found[: told.sum(), :2], expected[told][:, :2], atol=0.011)
    np.testing.assert_allclose(found[: told.sum(), 2], expected[told][:, 2], rtol=2e-3, atol=1.1e-4)


def small(**changes: object) -> Gtad:
    return networks.scattered(Gtad, replace(networks.SMALL_DETECTORS["gtad"]["windows"], **changes))


def test_a_padded_snippet_is_nobodys_neighbour() -> None:
    x = torch.zeros(1, 2, 5)
    x[0, :, :2] = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    mask = torch.tensor([[True, True, False, False, False]])
    index = nearest(x, mask, 3)
    assert index[0, :2].sort(dim=1).values.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert neighbours_of(x, index).shape == (1, 2, 5, 3)
    assert nearest(x, ~mask & mask, 3)[0].tolist() == [[step] * 3 for step in range(5)]


def test_only_cells_in_the_video_are_answers() -> None:
    network = small()
    features = torch.randn(2, 8, 16)
    mask = torch.arange(16) < torch.tensor([[16], [5]])
    with torch.inference_mode():
        found = network.decode(network(features, mask))
    spans, scores = found.spans, found.scores[..., 0]
    assert spans[0, scores[0] > 0].max() == 14.5  # nothing that ends with the window
    assert spans[1, scores[1] > 0].max() == 4.5
    assert spans[0, scores[0] > 0].min() == -0.5
    kept_to_the_end = small(ends_inside=False)
    with torch.inference_mode():
        found = kept_to_the_end.decode(kept_to_the_end(features, mask))
    assert found.spans[0, found.scores[0, :, 0] > 0].max() == 15.5


def test_the_boundary_filter_takes_peaks_and_what_is_likely() -> None:
    network = small(boundary_filter="after", ends_inside=False, max_duration=16)
    starts, ends = torch.full((2, 1, 16), -9.0)
    starts[0, 4], starts[0, 8], ends[0, 10] = 2.0, -3.0, 2.0  # 8 is no half as likely as 4, but a peak
    outputs = GtadOutputs(
        torch.zeros(1, 16, 16), torch.zeros(1, 16, 16), starts, ends, torch.ones(1, 16, dtype=torch.bool)
    )
    found = network.decode(outputs)
    kept = found.spans[0][found.scores[0, :, 0] > 0] + 0.5
    assert sorted(map(tuple, kept.int().tolist())) == [
        *((0, end) for end in (10, 15, 16)),
        *((4, end) for end in (10, 15, 16)),
        *((8, end) for end in (10, 15, 16)),
    ]


def test_cells_are_starts_and_durations() -> None:
    config = replace(networks.SMALL_DETECTORS["gtad"]["windows"], length=4, max_duration=2, neighbours=2)
    assert cell_steps(config).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 2], [1, 3], [2, 4], [3, 5]]


def test_published_weights_must_fit_and_unknown_options_are_told() -> None:
    known = golden.read("gtad_master")
    with pytest.raises(InvalidOptions, match="unknown keys tscale"):
        published.load("gtad", "master", known.state, {"tscale": 3})
    with pytest.raises(InvalidOptions, match="goi_samp 1"):
        published.load("gtad", "master", known.state, {"goi_samp": 1})
    with pytest.raises(InvalidOptions, match="pad_2d 0"):
        published.load("gtad", "master", known.state, {"pad_2d": 0})
    with pytest.raises(InvalidOptions, match=r"model lacks neck, rpn_head"):
        published.load("gtad", "opentad", known.state, {"projection": {}, "roi_head": {}})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 3}, "only 1 is accepted"),
        ({"input_channels": (4, 4)}, "one kind of feature"),
        ({"head_kernel": 2}, "odd number"),
        ({"max_duration": 300}, "exceeds length 256"),
        ({"channels": 30}, "no multiple of stem_groups 4"),
        ({"graph_width": 100}, "no multiple of graph_groups 32"),
        ({"inner_bins": 0}, "inner_bins is 0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(GtadConfig((2048,)), **changes)
