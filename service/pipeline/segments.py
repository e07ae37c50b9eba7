"""Detections or class activations of a video in, its segments in seconds out: fusion, suppression, voting, choice."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from models import geometry
from models.geometry import Nms
from models.manifest import Manifest
from models.postprocessing import ActivationGrouping, Fusion, Postprocessing, Suppression
from service.errors import InvalidOptions
from service.localization import DetectOptions, Extra, Segment
from service.pipeline import activations as grouping
from service.pipeline import windows
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import Detections

Scores = NDArray[np.float64]

NO_VIDEO_SCORES = "the model's post-processing needs video-level class scores, and its bundle has no classifier"


def check_options(options: DetectOptions, known_labels: tuple[str, ...]) -> None:
    """Refuses what no answer could satisfy, before any work is done."""
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise InvalidOptions(f"min_score is {options.min_score}; it lies between 0 and 1")
    start_s, end_s = options.start_s or 0.0, math.inf if options.end_s is None else options.end_s
    if not 0 <= start_s < end_s:
        raise InvalidOptions(f"start_s is {options.start_s} and end_s {options.end_s}; 0 <= start_s < end_s is needed")
    for extra in options.include:
        if extra not in get_args(Extra):
            raise InvalidOptions(f"include names {extra!r}; accepted: {', '.join(get_args(Extra))}")
    if options.top_k is not None and options.top_k < 1:
        raise InvalidOptions(f"top_k is {options.top_k}; it is at least 1")
    for label in options.labels or ():
        if label not in known_labels:
            near = difflib.get_close_matches(label, known_labels)
            hint = f"near it: {', '.join(near)}" if near else f"it has {len(known_labels)}, {known_labels[0]!r} first"
            raise InvalidOptions(f"label {label!r} is not one of the model's; {hint}")


def from_activations(
    activations: Scores,
    video_scores: Scores,
    grid: SnippetGrid,
    clip_span_frames: int,
    manifest: Manifest,
    rules: ActivationGrouping,
) -> Detections:
    """Curves of class activation (positions, K) as detections of the labels that segments carry."""
    summed = sum_label_groups(activations, manifest)
    video_summed = sum_label_groups(video_scores, manifest)
    # A window that speaks for its whole span begins where its clip does; a point stands where the grid says.
    offset_frames = grid.offset_frames if rules.support == "point" else 0.0
    ticks_frames = np.arange(len(summed)) * grid.stride_frames + offset_frames
    found = grouping.group(
        summed, video_summed, ticks_frames, _grouping_rules(rules), clip_span_frames, grid.num_frames
    )
    # Clips that were padded reach beyond the video; what is left of their spans must still be long enough.
    spans_frames = geometry.clip(found.spans, 0, grid.num_frames)
    long_enough = np.diff(spans_frames)[:, 0] >= min(rules.min_length_frames, grid.num_frames)
    spans = grid.frames_to_positions(spans_frames)
    return Detections(spans, found.scores, found.labels, np.zeros(len(spans), np.int64)).take(long_enough)


def sum_label_groups(scores: Scores, manifest: Manifest) -> Scores:
    """Class scores (…, K) in the order of `manifest.segment_labels`: a group's members added up."""
    members = {group.label: group.members for group in manifest.label_groups}
    if not members:
        return scores
    index = {label: number for number, label in enumerate(manifest.labels)}
    wanted = [[index[label] for label in members.get(name, (name,))] for name in manifest.segment_labels]
    return grouping.sum_groups(scores, wanted)


def finalize(
    detections: Detections,
    grid: SnippetGrid,
    rules: Postprocessing,
    labels: tuple[str, ...],
    options: DetectOptions,
    video_scores: Scores | None = None,
) -> list[Segment]:
    """The segments of a video, best first."""
    fusion = rules.fusion
    if fusion.rule != "none" and fusion.when == "before_nms":
        detections = fuse(detections, video_scores, fusion)
    detections = _of_length(detections, grid, rules)
    detections = suppress(detections, grid, rules)
    if fusion.rule != "none" and fusion.when == "after_nms":
        detections = fuse(detections, video_scores, fusion)
    return _choose(_in_seconds(detections, grid, rules, labels), rules, options)


def fuse(detections: Detections, video_scores: Scores | None, fusion: Fusion) -> Detections:
    """Joins candidate scores with the scores of the video's likeliest classes.

    A candidate that knows no class (one score for all of them) becomes a detection of each likely class; one that does
    stays what it is, and leaves if its class is not likely.
    """
    if video_scores is None:
        raise InvalidOptions(NO_VIDEO_SCORES)
    likely = np.argsort(-video_scores, kind="stable")[: fusion.classes]
    if fusion.detector_score == "as_is" and detections.knows_class:
        known = detections.take(np.isin(detections.labels, likely))
        return replace(known, scores=_joined(known.scores, video_scores[known.labels], fusion))
    each = [
        replace(
            detections,
            scores=_joined(detections.scores, video_scores[label], fusion),
            labels=np.full(len(detections.scores), label, np.int64),
            knows_class=True,
        )
        for label in likely
    ]
    return windows.join(each)


def suppress(detections: Detections, grid: SnippetGrid, rules: Postprocessing) -> Detections:
    """Suppression in the scopes that the bundle names; detections come back best first."""
    if rules.nms is None:
        return detections.take(np.argsort(-detections.scores, kind="stable"))
    nms = _nms(rules.nms, grid)
    if rules.nms_scope != "video":
        each = [detections.windows == window for window in np.unique(detections.windows)]
        detections = windows.join([_suppress_all(detections.take(members), nms, rules) for members in each])
    if rules.nms_scope != "window":
        detections = _suppress_all(detections, nms, rules)
    return detections.take(np.argsort(-detections.scores, kind="stable"))


def _suppress_all(detections: Detections, nms: Nms, rules: Postprocessing) -> Detections:
    voting = geometry.Voting(rules.voting.iou_threshold, rules.voting.weight) if rules.voting else None
    kept = geometry.suppress(
        detections.spans,
        detections.scores,
        detections.labels,
        nms,
        class_agnostic=rules.class_agnostic,
        voting=voting,
    )
    return Detections(kept.spans, kept.scores, kept.labels, detections.windows[kept.indices], detections.knows_class)


def _nms(rules: Suppression, grid: SnippetGrid) -> Nms:
    """Spans are compared on the grid; only the width in the BSN rule has a unit of its own."""
    num_positions = grid.num_frames / grid.stride_frames
    unit_length = {
        "grid": 1.0,
        "normalised": num_positions,
        "seconds": num_positions / max(grid.end_s - grid.start_s, 1e-9),
    }[rules.width_unit]
    return Nms(
        rules.kind,
        rules.iou_threshold,
        rules.sigma,
        rules.t1,
        rules.t2,
        unit_length,
        rules.min_score,
        rules.max_kept,
        geometry.Quirks(**dict(rules.quirks)),
    )


def _grouping_rules(rules: ActivationGrouping) -> grouping.Grouping:
    fields = dict(rules)
    fields["threshold"] = grouping.Threshold(rules.threshold.kind, rules.threshold.values)
    return grouping.Grouping(**fields)


def _joined(scores: Scores, video_scores: Scores | float, fusion: Fusion) -> Scores:
    product = scores * video_scores
    return np.asarray(np.sqrt(product) if fusion.rule == "sqrt" else product)


def _of_length(detections: Detections, grid: SnippetGrid, rules: Postprocessing) -> Detections:
    edges_s = geometry.clip(grid.to_seconds(detections.spans), grid.start_s, grid.end_s)
    lengths_s = edges_s[:, 1] - edges_s[:, 0]
    longest_s = np.inf if rules.max_length_s is None else rules.max_length_s
    return detections.take((lengths_s >= rules.min_length_s) & (lengths_s <= longest_s))


def _in_seconds(
    detections: Detections, grid: SnippetGrid, rules: Postprocessing, labels: tuple[str, ...]
) -> list[Segment]:
    edges_s = geometry.clip(grid.to_seconds(detections.spans), grid.start_s, grid.end_s)
    scores = detections.scores
    if rules.score_map is not None:
        scores = np.clip(scores / rules.score_map.divide_by, 0.0, 1.0)
    rows = zip(edges_s.tolist(), scores.tolist(), detections.labels.tolist(), strict=True)
    return [Segment(start, end, labels[label], score) for (start, end), score, label in rows if end > start]


def _choose(segments: list[Segment], rules: Postprocessing, options: DetectOptions) -> list[Segment]:
    """What the caller asked for, or else what the bundle thinks useful."""
    least = rules.min_score if options.min_score is None else options.min_score
    limit = rules.top_k if options.top_k is None else options.top_k
    wanted = [
        segment
        for segment in segments
        if (least is None or segment.score >= least) and (options.labels is None or segment.label in options.labels)
    ]
    return sorted(wanted, key=lambda s: (-s.score, s.start_s, s.end_s, s.label))[:limit]
