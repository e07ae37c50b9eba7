"""BMN's network: three published codes' numbers through the door for weights, decoding, rules; and its own laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from exporters import published
from models import geometry
from models.catalog import DETECTORS
from models.detectors import bmn_config
from models.detectors.bmn import Bmn, BmnOutputs, Cells, peaks
from models.detectors.bmn_config import BmnConfig
from models.detectors.boundary_matching import shear
from models.detectors.detector import Lengths
from models.manifest import Resized, Sliding, Windowing
from models.postprocessing import Presets
from service.errors import InvalidOptions
from tests.support import golden, networks

SMALL = networks.BMN


def jjboy() -> tuple[golden.GoldenSet, Bmn]:
    known = golden.read("bmn_jjboy")
    return known, cast("Bmn", published.load("bmn", "jjboy", known.state, known.config["opt"]))


def opentad() -> tuple[golden.GoldenSet, Bmn]:
    known = golden.read("opentad/bmn")
    return known, cast("Bmn", published.load("bmn", "opentad", known.state, known.config["model"]))


def by_duration(network: Bmn, cells: np.ndarray) -> Tensor:
    """Cells (…, start, last step) as (…, duration, start)."""
    _, back = shear(network.config.shape)
    return torch.from_numpy(cells).flatten(-2)[..., back].reshape(cells.shape)


def test_jjboys_numbers_come_out() -> None:
    known, network = jjboy()
    x = torch.from_numpy(known.inputs["x"])
    with torch.inference_mode():
        mask = torch.ones(4, 24, dtype=torch.bool)
        outputs = network(x, mask)
        base = network.base(x, torch.ones(4, 1, 24))
    np.testing.assert_allclose(base.features, known.outputs["stage/base"], atol=1e-6, rtol=1e-5)
    curves = outputs.boundaries.sigmoid()
    np.testing.assert_allclose(curves[:, 0], known.outputs["start"], atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(curves[:, 1], known.outputs["end"], atol=1e-6, rtol=1e-5)
    expected = by_duration(network, known.outputs["conf_map"])
    np.testing.assert_allclose(outputs.answers.sigmoid(), expected, atol=1e-6, rtol=2e-5)


def test_jjboys_convolution_over_samples_comes_out() -> None:
    known, network = jjboy()
    with torch.inference_mode():
        reduced = torch.from_numpy(known.outputs["stage/p_reduced"])
        found = network.matching(reduced, torch.relu)[0, :8]
    expected = by_duration(network, known.outputs["stage/conv3d"].reshape(8, 24, 24))
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)


def test_jjboys_proposals_and_what_its_suppression_keeps_of_them_come_out() -> None:
    known, network = jjboy()
    x = torch.from_numpy(known.inputs["x"])
    with torch.inference_mode():
        found = network.decode(network(x, torch.ones(4, 24, dtype=torch.bool)))
    for video in range(4):
        proposals = known.outputs[f"proposals/{video}"]
        scores = {
            tuple(span): score.item()
            for span, score in zip(found.spans[video].tolist(), found.scores[video], strict=True)
        }
        assert sum(score > 0 for score in scores.values()) == len(proposals)
        ours = [scores[round(start * 24), round(end * 24)] for start, end in proposals[:, :2]]
        # Their own rounding leaves 2e-5: so far are they from the same network in double precision.
        np.testing.assert_allclose(ours, proposals[:, 6], rtol=4e-5)
        kept = suppressed(found.spans[video].double().numpy() / 24, found.scores[video, :, 0].numpy())
        expected = known.outputs[f"result/{video}"][:10]
        corrected_s = known.inputs[f"gt/{video}/feature_frame"] / known.inputs[f"gt/{video}/duration_frame"]
        corrected_s = corrected_s * known.inputs[f"gt/{video}/duration_second"]
        # Further down an overlap equals its threshold, both of them fractions of 24: there rounding decides.
        np.testing.assert_allclose(kept.scores[:10], expected[:, 2], rtol=1e-4)
        np.testing.assert_allclose(kept.spans[:10] * corrected_s, expected[:, :2], rtol=1e-4)
        assert len(kept.scores) == len(known.outputs[f"result/{video}"])


def suppressed(spans: np.ndarray, scores: np.ndarray) -> geometry.Kept:
    rules = Presets.model_validate(DETECTORS["bmn"].rules["activitynet"]()).evaluation
    assert rules is not None and rules.nms is not None  # noqa: PT018
    nms = geometry.Nms(
        rules.nms.kind,
        sigma=rules.nms.sigma,
        t1=rules.nms.t1,
        t2=rules.nms.t2,
        max_kept=rules.nms.max_kept,
        quirks=geometry.Quirks(inclusive=rules.nms.quirks.inclusive, keep_last=rules.nms.quirks.keep_last),
    )
    real = scores > 0
    return geometry.suppress(spans[real], scores[real], np.zeros(real.sum()), nms, class_agnostic=True)


def test_opentads_numbers_and_detections_come_out() -> None:
    known, network = opentad()
    with torch.inference_mode():
        outputs = network(torch.from_numpy(known.inputs["x"]), torch.from_numpy(known.inputs["mask"]))
        found = network.decode(outputs)
    np.testing.assert_allclose(outputs.boundaries, known.outputs["pred/0"], atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(outputs.answers, known.outputs["pred/1"], atol=2e-5, rtol=1e-4)
    nms = geometry.Nms(
        "gaussian",
        sigma=known.config["nms"]["sigma"],
        min_score=known.config["nms"]["min_score"],
        max_kept=known.config["nms"]["max_seg_num"],
        quirks=geometry.Quirks(width_epsilon=1e-6, spare_first=True),
    )
    voting = geometry.Voting(known.config["nms"]["voting_thresh"], "score")
    for video in range(3):
        scores = found.scores[video, :, 0].numpy()
        real = scores > 0
        kept = geometry.suppress(
            found.spans[video].numpy()[real],
            scores[real],
            np.zeros(real.sum()),
            nms,
            class_agnostic=True,
            voting=voting,
        )
        expected = known.outputs[f"det/{video}/start_end_score_label"]
        assert len(kept.scores) == len(expected)
        seconds = kept.spans * known.inputs[f"gt/{video}/duration"] / network.config.length
        np.testing.assert_allclose(seconds, expected[:, :2], atol=0.011)
        np.testing.assert_allclose(kept.scores, expected[:, 2], atol=1.1e-4)


def test_mmactions_file_is_jjboys_over_a_map_by_duration() -> None:
    known, network = jjboy()
    model = {"type": "BMN", "temporal_dim": 24, "boundary_ratio": 0.5, "num_samples": 8, "num_samples_per_bin": 3}
    loaded = cast("Bmn", published.load("bmn", "mmaction", known.state, model))
    expected = replace(network.config, layout="duration-start", sampled_ends="last", peak_filter=True)
    assert loaded.config == expected
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_file_that_fits_no_layout_is_told() -> None:
    known = golden.read("opentad/bmn")
    with pytest.raises(InvalidOptions, match=r"no x_1d_b\.0\.weight"):
        published.load("bmn", "jjboy", known.state, {})
    model = {**known.config["model"], "projection": {"in_channels": 20, "out_channels": 16, "num_convs": 3}}
    with pytest.raises(InvalidOptions, match="num_convs of projection is 3"):
        published.load("bmn", "opentad", known.state, model)


def test_a_boundary_is_a_peak_or_half_as_likely_as_the_likeliest() -> None:
    curve = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.8, 0.5, 0.3, 0.35, 0.0])
    mask = torch.arange(9) < 8
    found = peaks(torch.stack([curve, curve.flip(0)])[None] * mask, mask[None])[0].bool()
    assert found[0].nonzero().flatten().tolist() == [0, 2, 4, 5, 7]
    assert found[1].nonzero().flatten().tolist() == [1, 3, 4, 6, 7]


def decoded(config: BmnConfig, real: int, **changes: Tensor) -> dict[tuple[int, int], float]:
    network = Bmn(config)
    outputs = BmnOutputs(
        torch.zeros(1, 2, config.length),
        torch.zeros(1, 2, config.durations, config.length),
        torch.arange(config.length)[None] < real,
    )
    found = network.decode(outputs._replace(**changes))
    pairs = zip(found.spans[0].tolist(), found.scores[0, :, 0].tolist(), strict=True)
    return {(round(start), round(end)): score for (start, end), score in pairs if score > 0}


def test_spans_within_the_real_steps_score_and_no_others() -> None:
    config = replace(SMALL, durations=5, boundary_scores=False, peak_filter=False)
    found = decoded(config, real=7)
    assert set(found) == {(start, end) for start in range(7) for end in range(start + 1, min(start + 5, 7) + 1)}
    assert set(found.values()) == {0.25}
    after = decoded(replace(config, scored_ends="after"), real=7)
    assert set(after) == {span for span in found if span[1] < 7}


def test_a_score_is_the_product_of_answers_start_and_end() -> None:
    curves = torch.arange(32.0).reshape(1, 2, 16) / 10
    answers = torch.randn(1, 2, 16, 16)
    found = decoded(replace(SMALL, peak_filter=False), 16, boundaries=curves, answers=answers)
    score = answers[0].sigmoid().prod(dim=0)
    start, end = curves[0].sigmoid()
    for (first, stop), value in found.items():
        expected = score[stop - first - 1, first] * start[first] * end[stop - 1]
        assert value == pytest.approx(expected.item(), rel=1e-5)
    assert len(found) == 16 * 17 // 2


def test_the_filter_keeps_spans_between_likely_boundaries() -> None:
    curves = torch.full((1, 2, 16), -9.0)
    curves[0, 0, [0, 4]], curves[0, 1, [9, 15]] = 2.0, 2.0
    curves[0, 0] -= 0.01 * torch.arange(16.0)  # a slope has no other peaks
    curves[0, 1] += 0.01 * torch.arange(16.0)
    found = decoded(replace(SMALL, boundary_scores=False), 16, boundaries=curves)
    assert set(found) == {(start, end) for start in (0, 4) for end in (10, 16)}


def test_both_layouts_are_the_same_cells_in_another_order() -> None:
    """Without convolutions over the map, whose neighbours differ, nothing else does."""
    config = replace(SMALL, head_layers=0)
    first = networks.scattered(Bmn, config)
    second = Bmn(replace(config, layout="start-end")).eval()
    second.load_state_dict(first.state_dict())
    features, mask = torch.randn(2, 6, 16), torch.ones(2, 16, dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(first(features, mask), second(features, mask))
        widened = networks.scattered(Bmn, replace(config, head_layers=1))
        sheared = Bmn(replace(config, head_layers=1, layout="start-end")).eval()
        sheared.load_state_dict(widened.state_dict())
        assert not torch.allclose(widened(features, mask).answers, sheared(features, mask).answers, atol=1e-3)


def test_cells_know_their_spans() -> None:
    cells = Cells(SMALL.shape)
    assert cells.spans.unflatten(0, (16, 16))[3, 5].tolist() == [5, 9]
    present = cells.present(torch.arange(16)[None] < 11)[0]
    assert present.sum() == 11 * 12 // 2


def test_presets_window_as_published() -> None:
    entry = DETECTORS["bmn"]
    adapter: TypeAdapter[Windowing] = TypeAdapter(Windowing)
    sliding = adapter.validate_python(entry.windowing(bmn_config.thumos().lengths))
    assert isinstance(sliding, Sliding)
    assert (sliding.length, sliding.hop) == (128, 64)
    resized = adapter.validate_python(entry.windowing(bmn_config.activitynet().lengths))
    assert isinstance(resized, Resized)
    assert (resized.length, resized.span, resized.offset_steps) == (100, "strides", 0)
    assert bmn_config.compact(8).lengths == Lengths(fixed=128, train_length=128)
    for rules in entry.rules.values():
        assert Presets.model_validate(rules()).use.class_agnostic


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_channels": (6, 6)}, "one kind of feature"),
        ({"groups": 4}, "input_channels is 6, no multiple of groups 4"),
        ({"durations": 17}, "a window of 16 steps has no longer spans"),
        ({"durations": 9, "layout": "start-end"}, "a map by start and end has 16 rows; durations is 9"),
        ({"classification_channel": 2}, "classification_channel is 2"),
        ({"cell_channels": 0}, "cell_channels is 0"),
        ({"head_layers": -1}, "head_layers is -1"),
    ],
)
def test_a_configuration_without_sense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **changes)
