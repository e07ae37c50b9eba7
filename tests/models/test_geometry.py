"""The suppression of spans against published numbers, a brute-force oracle and its own laws."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.geometry import Nms, Quirks, Voting, clip, coverage, select, suppress, tiou, vote

GOLDEN = Path(__file__).parents[1] / "golden" / "postproc"
CPP = Quirks(width_epsilon=1e-6, spare_first=True)
CPP_HARD = Quirks(width_epsilon=1e-6)
PYTHON = {"rtol": 1e-9, "atol": 0}
FLOAT32 = {"rtol": 0, "atol": 1e-5}
# The references average in float32, whose steps are 8e-6 from 64 on: their own rounding exceeds 1e-5 there.
FLOAT32_MEANS = {"rtol": 2 * np.finfo(np.float32).eps, "atol": 1e-5}


@pytest.fixture(scope="module")
def golden():
    arrays = {}
    for name in ("inputs", "outputs"):
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
            arrays |= dict(stored)
    return arrays


def configs():
    return json.loads((GOLDEN / "config.json").read_text())["nms_configs"]


def nms_of(config):
    limits = {"min_score": config["min_score"], "max_kept": config["max_seg_num"]}
    if not config["use_soft_nms"]:
        return Nms("hard", config["iou_threshold"], quirks=CPP_HARD, **limits)
    match config.get("method", 2):
        case 0:
            return Nms("hard", config["iou_threshold"], quirks=CPP, **limits)
        case 1:
            return Nms("linear", config["iou_threshold"], quirks=CPP, **limits)
        case 2:
            return Nms("gaussian", sigma=config["sigma"], quirks=CPP, **limits)
        case _:
            t1, slope = config["t1"], config["t2"]
            return Nms("bsn", sigma=config["sigma"], t1=t1, t2=t1 + slope, quirks=CPP, **limits)


@pytest.mark.parametrize("config", configs(), ids=lambda config: config["name"])
def test_video_postprocessing_equals_actionformer_and_opentad(golden, config):
    weight = "score_iou" if config["lib"] == "af" else "score"
    voting = Voting(config["voting_thresh"], weight) if config["voting_thresh"] > 0 else None
    kept = suppress(
        golden["cand/segments"],
        golden["cand/scores"],
        golden["cand/labels"],
        nms_of(config),
        class_agnostic=not config["multiclass"],
        voting=voting,
    )
    expected = f"nms/{config['name']}"
    np.testing.assert_allclose(kept.spans, golden[f"{expected}/segments"], **(FLOAT32_MEANS if voting else FLOAT32))
    np.testing.assert_allclose(kept.scores, golden[f"{expected}/scores"], **FLOAT32)
    np.testing.assert_array_equal(kept.labels, golden[f"{expected}/labels"])


@pytest.mark.parametrize(("method", "kind"), [(0, "hard"), (1, "linear"), (2, "gaussian")])
def test_soft_suppression_equals_the_compiled_reference(golden, method, kind):
    nms = Nms(kind, iou_threshold=0.3, sigma=0.5, min_score=0.001, quirks=CPP)
    indices, scores = select(golden["cand/segments"], golden["cand/scores"], nms)
    np.testing.assert_array_equal(indices, golden[f"raw_softnms/method{method}/indices"])
    found = np.column_stack([golden["cand/segments"][indices], scores])
    np.testing.assert_allclose(found, golden[f"raw_softnms/method{method}/dets"], **FLOAT32)


def test_hard_suppression_equals_the_compiled_reference(golden):
    indices, _ = select(golden["cand/segments"], golden["cand/scores"], Nms("hard", 0.5, quirks=CPP_HARD))
    np.testing.assert_array_equal(indices, golden["raw_nms/iou.5/indices"])


@pytest.mark.parametrize(("library", "weight"), [("af", "score_iou"), ("opentad", "score")])
def test_voting_equals_the_references(golden, library, weight):
    spans, scores = golden["cand/segments"], golden["cand/scores"]
    moved = vote(spans[:30], spans, scores, 0.6, weight)
    np.testing.assert_allclose(moved, golden[f"voting/{library}"], **FLOAT32_MEANS)


@pytest.mark.parametrize("weight", ["score_iou", "score"])
def test_voting_is_the_weighted_mean_over_all_candidates(golden, weight):
    spans, scores = golden["cand/segments"].astype(np.float64), golden["cand/scores"].astype(np.float64)
    overlap = tiou(spans, spans)
    weights = (overlap >= 0.6) * scores * (overlap if weight == "score_iou" else 1)
    expected = weights @ spans / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(vote(spans, spans, scores, 0.6, weight), expected, rtol=1e-12)


PUBLISHED = [
    (
        "bsn_softnms/alpha.4_t.5_.9/score_xmin_xmax",
        Nms("bsn", sigma=0.4, t1=0.5, t2=0.9, max_kept=101, quirks=Quirks(inclusive=False, keep_last=False)),
    ),
    (
        "bsn_softnms/alpha.75_t.65_.9/score_xmin_xmax",
        Nms("bsn", sigma=0.75, t1=0.65, t2=0.9, max_kept=101, quirks=Quirks(inclusive=False, keep_last=False)),
    ),
    (
        "tadtr_softnms/alpha.4_t.5_.9_top100",
        Nms("bsn", sigma=0.4, t1=0.5, t2=0.9, max_kept=101, quirks=Quirks(inclusive=False, overlap="coverage")),
    ),
    ("tadtr_nms/thr.4", Nms("hard", 0.4, quirks=Quirks(inclusive=False))),
    (
        "gtad_anet_softnms/nms_thr.8/score_xmin_xmax",
        Nms("gaussian", sigma=0.8, max_kept=100, quirks=Quirks(keep_last=False)),
    ),
    (
        "gtad_thumos_softnms/nms_thr.46/score_xmin_xmax",
        Nms("gaussian", sigma=0.46, max_kept=200, quirks=Quirks(keep_last=False, zero_from_length=300)),
    ),
    (
        "react_softnms/default/start_end_score_class",
        Nms("gaussian", sigma=0.4, min_score=1e-6, max_kept=1000, quirks=Quirks(candidate_order=True)),
    ),
    (
        "react_softnms/top40/start_end_score_class",
        Nms("gaussian", sigma=0.5, max_kept=40, quirks=Quirks(candidate_order=True)),
    ),
    ("react_nms/thr.4/start_end_score_class", Nms("hard", 0.4, quirks=Quirks(inclusive=False))),
    (
        "afsd_softnms/v2_sigma.5_top1000",
        Nms(
            "gaussian", sigma=0.5, min_score=0.001, max_kept=1000, quirks=Quirks(keep_last=False, candidate_order=True)
        ),
    ),
    (
        "afsd_softnms/v2_sigma.85_top30",
        Nms("gaussian", sigma=0.85, min_score=0.001, max_kept=30, quirks=Quirks(keep_last=False, candidate_order=True)),
    ),
]


@pytest.mark.parametrize(("name", "nms"), PUBLISHED, ids=[name.replace("/", "-") for name, _ in PUBLISHED])
def test_options_reproduce_published_suppression(golden, name, nms):
    source = "frames" if name.startswith("gtad_thumos") else "norm"
    spans, scores = golden[f"{source}/segments"], golden[f"{source}/scores"]
    indices, kept = select(spans, scores, nms)
    found, expected = np.column_stack([spans[indices], kept]), golden[name][:, :4]
    if name.endswith("score_xmin_xmax"):
        expected = expected[:, [1, 2, 0]]
    if name.startswith("react"):
        # ReAct answers class by class; which class a candidate has plays no part in its suppression.
        found, expected = by_start(found), by_start(expected[:, :3])
    np.testing.assert_allclose(found, expected, **(FLOAT32 if name.startswith("afsd") else PYTHON))


def by_start(rows):
    return rows[np.lexsort(rows.T[::-1])]


relaxed = settings(deadline=None, max_examples=60)
kinds = st.sampled_from(["hard", "linear", "gaussian", "bsn"])


@st.composite
def candidates(draw, max_size=14, classes=3):
    """Spans on a grid of quarters, where arithmetic is exact, so that equal rules give equal numbers."""
    row = st.tuples(
        st.integers(0, 60), st.integers(0, 30), st.floats(0.0009765625, 1.0, width=32), st.integers(0, classes - 1)
    )
    rows = np.array(draw(st.lists(row, max_size=max_size)), dtype=np.float64).reshape(-1, 4)
    starts, lengths = rows[:, 0] / 4, rows[:, 1] / 4
    return np.column_stack([starts, starts + lengths]), rows[:, 2], rows[:, 3].astype(np.int64)


@st.composite
def rules(draw, kinds=kinds):
    quirks = Quirks(
        overlap=draw(st.sampled_from(["iou", "coverage"])),
        inclusive=draw(st.booleans()),
        width_epsilon=draw(st.sampled_from([0.0, 1e-6])),
        spare_first=draw(st.booleans()),
        keep_last=draw(st.booleans()),
        zero_from_length=draw(st.sampled_from([None, 5.0])),
    )
    return Nms(
        kind=draw(kinds),
        iou_threshold=draw(st.sampled_from([0.1, 0.3, 0.5, 0.75])),
        sigma=draw(st.sampled_from([0.2, 0.5, 0.9])),
        t1=draw(st.sampled_from([0.0, 0.2, 0.5])),
        t2=draw(st.sampled_from([0.5, 0.9])),
        unit_length=draw(st.sampled_from([1.0, 16.0])),
        min_score=draw(st.sampled_from([0.0, 0.01, 0.3])),
        max_kept=draw(st.sampled_from([None, 1, 4])),
        quirks=quirks,
    )


def oracle(spans, scores, nms):
    """One class to its very end, pair by pair: what `select` must equal."""
    quirks, current, picks = nms.quirks, list(scores), []
    long = [quirks.zero_from_length is not None and end - start >= quirks.zero_from_length for start, end in spans]
    spared = {int(np.argmax(scores))} if quirks.spare_first and len(scores) else set()
    left = [i for i, score in enumerate(scores) if score >= nms.min_score or i in spared or long[i]]
    for i in left:
        current[i] = 0.0 if long[i] else current[i]
    while len(left) > (0 if quirks.keep_last else 1):
        best = max(left, key=lambda i: (current[i], -i))
        if current[best] <= 0:
            break
        picks.append((best, current[best]))
        left.remove(best)
        for i in list(left):
            if (by := factor(spans[best], spans[i], nms)) is not None and current[i] > 0:
                current[i] *= by
                if current[i] < nms.min_score:
                    left.remove(i)
    return picks


def factor(best, other, nms):
    width, other_width = (end - start + nms.quirks.width_epsilon for start, end in (best, other))
    shared = min(best[1], other[1]) - max(best[0], other[0])
    if shared <= 0:
        return None
    overlap = shared / (width if nms.quirks.overlap == "coverage" else width + other_width - shared)
    threshold = nms.t1 + (nms.t2 - nms.t1) * width / nms.unit_length if nms.kind == "bsn" else nms.iou_threshold
    reached = overlap >= threshold if nms.quirks.inclusive else overlap > threshold
    if nms.kind != "gaussian" and not reached:
        return 1.0
    return {"hard": 0.0, "linear": 1 - overlap}.get(nms.kind, float(np.exp(-overlap * overlap / nms.sigma)))


def best_first(picks, limit):
    return sorted(picks, key=lambda pick: -pick[1])[:limit]


@relaxed
@given(candidates(), rules())
def test_selection_equals_brute_force(sample, nms):
    spans, scores, _ = sample
    expected = oracle(spans, scores, nms)[: nms.max_kept]
    indices, kept = select(spans, scores, nms)
    assert indices.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(kept, [score for _, score in expected], rtol=1e-12)


@relaxed
@given(candidates(max_size=24), rules())
def test_taking_heads_lazily_equals_running_every_class_to_its_end(sample, nms):
    spans, scores, labels = sample
    picks = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        picks += [(members[i], score) for i, score in oracle(spans[members], scores[members], nms)]
    expected = best_first(picks, nms.max_kept)
    kept = suppress(spans, scores, labels, nms)
    assert kept.indices.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(kept.scores, [score for _, score in expected], rtol=1e-12)


@relaxed
@given(candidates(), rules())
def test_survivors_are_candidates_sorted_by_scores_that_never_rose(sample, nms):
    spans, scores, labels = sample
    kept = suppress(spans, scores, labels, nms)
    assert len(set(kept.indices.tolist())) == len(kept.indices)
    np.testing.assert_array_equal(kept.spans, spans[kept.indices])
    np.testing.assert_array_equal(kept.labels, labels[kept.indices])
    assert (kept.scores <= scores[kept.indices]).all()
    assert (np.diff(kept.scores) <= 0).all()


@relaxed
@given(candidates(), rules(), st.integers(-1000, 1000))
def test_shifting_every_span_changes_no_choice(sample, nms, shift):
    spans, scores, labels = sample
    here, there = (suppress(where, scores, labels, nms) for where in (spans, spans + shift))
    np.testing.assert_array_equal(here.indices, there.indices)
    np.testing.assert_array_equal(here.scores, there.scores)


@relaxed
@given(candidates(), rules(), st.sampled_from([0.25, 2.0, 64.0]))
def test_the_unit_of_spans_changes_no_choice(sample, nms, unit):
    spans, scores, labels = sample
    quirks = replace(nms.quirks, width_epsilon=0.0, zero_from_length=None)
    plain = replace(nms, quirks=quirks)
    scaled = replace(plain, unit_length=nms.unit_length * unit)
    here, there = suppress(spans, scores, labels, plain), suppress(spans * unit, scores, labels, scaled)
    np.testing.assert_array_equal(here.indices, there.indices)
    np.testing.assert_array_equal(here.scores, there.scores)


@relaxed
@given(candidates(classes=1), rules())
def test_with_one_class_the_scope_makes_no_difference(sample, nms):
    for within, over_all in zip(suppress(*sample, nms), suppress(*sample, nms, class_agnostic=True), strict=True):
        np.testing.assert_array_equal(within, over_all)


@relaxed
@given(candidates(), st.sampled_from([0.1, 0.5, 0.9]))
def test_hard_suppression_leaves_no_overlap_within_a_class_and_is_idempotent(sample, threshold):
    nms = Nms("hard", threshold)
    kept = suppress(*sample, nms)
    clash = (tiou(kept.spans, kept.spans) >= threshold) & (kept.labels[:, None] == kept.labels[None])
    np.fill_diagonal(clash, False)
    assert not clash.any()
    again = suppress(kept.spans, kept.scores, kept.labels, nms)
    np.testing.assert_array_equal(again.spans, kept.spans)
    np.testing.assert_array_equal(again.scores, kept.scores)


@relaxed
@given(candidates(), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from(["score_iou", "score"]))
def test_voting_stays_within_the_hull_of_the_neighbours(sample, threshold, weight):
    spans, scores, _ = sample
    moved = vote(spans, spans, scores, threshold, weight)
    for before, after in zip(spans, moved, strict=True):
        near = spans[tiou(before[None], spans)[0] >= threshold]
        hull = near if len(near) else before[None]
        assert (after >= hull.min(axis=0) - 1e-9).all()
        assert (after <= hull.max(axis=0) + 1e-9).all()


@relaxed
@given(candidates())
def test_overlaps_are_symmetric_bounded_and_one_with_themselves(sample):
    spans = sample[0]
    overlap = tiou(spans, spans)
    np.testing.assert_array_equal(overlap, overlap.T)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    np.testing.assert_array_equal(np.diag(overlap), (spans[:, 1] > spans[:, 0]).astype(float))
    assert (coverage(spans, spans) >= overlap).all()


def test_voting_counts_the_candidates_before_suppression_with_their_first_scores():
    spans, scores, labels = [[0, 10], [2, 12], [40, 50]], [0.9, 0.3, 0.5], [0, 1, 0]
    kept = suppress(spans, scores, labels, Nms("hard", 0.5), class_agnostic=True, voting=Voting(0.6, "score"))
    np.testing.assert_allclose(kept.spans, [[0.5, 10.5], [40, 50]])


def test_voting_is_left_out_within_classes():
    kept = suppress([[0, 10], [1, 11]], [0.9, 0.8], [0, 0], Nms("hard"), voting=Voting(0.5))
    np.testing.assert_array_equal(kept.spans, [[0, 10]])


def test_kind_none_sorts_and_cuts_only():
    kept = suppress([[0, 4], [0, 4], [0, 4]], [0.2, 0.9, 0.2], [0, 0, 1], Nms("none", max_kept=2))
    assert kept.indices.tolist() == [1, 0]


def test_a_score_of_zero_is_no_candidate():
    assert select([[0, 1], [2, 3]], [0.0, 0.4], Nms("gaussian"))[0].tolist() == [1]


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_no_candidates_give_no_segments(class_agnostic):
    kept = suppress([], [], [], Nms("gaussian", max_kept=5), class_agnostic=class_agnostic, voting=Voting(0.5))
    assert [column.shape for column in kept] == [(0, 2), (0,), (0,), (0,)]


@pytest.mark.parametrize("kind", ["none", "hard", "linear", "gaussian", "bsn"])
def test_spans_without_length_overlap_nothing(kind):
    spans = [[3.0, 3.0], [3.0, 3.0], [5.0, 2.0], [0.0, 9.0]]
    kept = suppress(spans, [0.9, 0.8, 0.7, 0.6], [0] * 4, Nms(kind), class_agnostic=True, voting=Voting(0.5))
    np.testing.assert_array_equal(kept.scores, [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_array_equal(kept.spans, spans)


def test_coverage_is_the_share_of_the_first_span():
    np.testing.assert_allclose(coverage([[0, 4]], [[2, 10], [0, 4], [7, 8]]), [[0.5, 1.0, 0.0]])


def test_clipping_moves_ends_into_the_video():
    np.testing.assert_array_equal(clip([[-1, 5], [8, 14], [11, 12]], 0, 10), [[0, 5], [8, 10], [10, 10]])


@pytest.mark.parametrize(
    ("spans", "scores", "labels", "message"),
    [
        ([[0, np.nan]], [0.5], [0], r"spans\[0\] is .*nan.*finite"),
        ([[0, 1]], [np.nan], [0], r"scores\[0\] is nan"),
        ([[0, 1, 2]], [0.5], [0], r"spans have shape \(1, 3\); \(N, 2\)"),
        ([[0, 1]], [0.5, 0.6], [0], r"scores have shape \(2,\); 1 spans"),
        ([[0, 1]], [0.5], [0, 1], r"labels have shape \(2,\)"),
    ],
)
def test_arrays_that_make_no_sense_are_refused_by_name(spans, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        suppress(spans, scores, labels, Nms("hard"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fast"}, "kind is 'fast'; accepted are none, hard"),
        ({"sigma": 0.0}, "sigma is 0.0; it must be greater than 0"),
        ({"unit_length": -1.0}, "unit_length is -1.0"),
        ({"max_kept": 0}, "max_kept is 0; it must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Nms(**options)
