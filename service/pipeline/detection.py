"""A feature sequence and a loaded model in; detections, the grid they stand on, and the video's class scores out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.postprocessing import Postprocessing
from service.errors import InferenceFailed
from service.pipeline import features, segments, windows
from service.pipeline.extraction import Watch
from service.pipeline.features import FeatureSequence
from service.pipeline.snippets import SnippetGrid
from service.pipeline.windows import CandidateLimits, Detections, WindowBatch, WindowPlan
from service.runtime.loaded_model import LoadedGraph, LoadedModel
from service.runtime.session import Array, Tensor, to_numpy

WINDOWS_PER_BATCH = 8
STEPS_PER_BATCH = 4096  # fewer windows at once where they are long: a detector's memory grows with all steps together
TENSOR_TYPES = {"bool": np.bool_, "float": np.float32}

Scores = NDArray[np.float64]
Part = TypeVar("Part")


class Found(NamedTuple):
    """`grid` is what the spans refer to.

    `video_scores`, one per segment label, is None where nothing judges the video as a whole, and `curves` (positions,
    labels) where the model gives candidates.
    """

    detections: Detections
    grid: SnippetGrid
    video_scores: Scores | None
    curves: Scores | None = None


class Curves(NamedTuple):
    """Class activations (positions, K) on `grid`, and how much of each class the video holds (K,)."""

    activations: Scores
    video_scores: Scores
    grid: SnippetGrid


def detect(sequence: FeatureSequence, model: LoadedModel, rules: Postprocessing, watch: Watch | None = None) -> Found:
    watch = watch or Watch()
    video_scores = _classify(sequence, model)
    if model.manifest.output_kind == "candidates":
        detections, grid = _candidates(sequence, model, rules, watch)
        return Found(detections, grid, video_scores)
    has_detector = model.manifest.detector is not None
    curves = _detector_curves(sequence, model, watch) if has_detector else _scores_as_curves(sequence)
    detections = segments.from_activations(
        curves.activations,
        curves.video_scores if video_scores is None else video_scores,
        curves.grid,
        sequence.clip_span_frames,
        model.manifest,
        _there(rules.grouping),
    )
    if video_scores is not None:
        video_scores = segments.sum_label_groups(video_scores, model.manifest)
    return Found(detections, curves.grid, video_scores, segments.sum_label_groups(curves.activations, model.manifest))


def _classify(sequence: FeatureSequence, model: LoadedModel) -> Scores | None:
    """The classifier's view of the whole video."""
    spec = model.manifest.classifier
    if spec is None:
        return None
    graph = _there(model.classifier)
    layout = windows.plan(sequence.num_snippets, windows.WHOLE_VIDEO)
    batch = next(windows.batches(_values(sequence), layout, model.ops, 1))
    outputs = graph.session.run(_feeds(graph, spec.features, spec.mask, batch), want=[spec.video_scores])
    raw = to_numpy(outputs[spec.video_scores]).reshape(1, -1)
    scores = np.asarray(features.activate(raw, spec.activation)[0], np.float64)
    if scores.shape != (len(model.manifest.labels),) or not ((scores >= 0) & (scores <= 1)).all():
        raise InferenceFailed(
            f"the classifier gave {scores.size} video scores from {scores.min():g} to {scores.max():g}; "
            f"{len(model.manifest.labels)} between 0 and 1 are needed"
        )
    return scores


def _candidates(
    sequence: FeatureSequence, model: LoadedModel, rules: Postprocessing, watch: Watch
) -> tuple[Detections, SnippetGrid]:
    spec = _there(model.manifest.detector)
    max_classes = 1 if rules.fusion.detector_score == "max_over_classes" else rules.max_classes_per_candidate
    limits = CandidateLimits(
        rules.min_candidate_score,
        rules.top_k_per_group,
        rules.top_k_per_window,
        max_classes,
        rules.min_length_steps,
    )
    want = [name for name in (spec.spans, spec.scores, spec.groups) if name]
    layout, grid = _layout(sequence, model)
    found: list[Detections] = []
    first_window = 0
    for batch, outputs in _run_windows(sequence, model, layout, want, watch):
        raw = (outputs[spec.spans], outputs[spec.scores], outputs[spec.groups] if spec.groups else None)
        found.append(windows.place_on_grid(raw, batch, limits, first_window))
        first_window += len(batch.first_snippet)
    return windows.join(found), grid


def _detector_curves(sequence: FeatureSequence, model: LoadedModel, watch: Watch) -> Curves:
    """A detector's activations over the whole grid; a class is in the video as much as in its best window."""
    spec = _there(model.manifest.detector)
    want = [name for name in (spec.activations, spec.video_scores) if name]
    layout, grid = _layout(sequence, model)
    runs = [outputs for _, outputs in _run_windows(sequence, model, layout, want, watch)]
    _check_curves([run[spec.activations] for run in runs], layout, model)
    num_positions = sequence.num_snippets if grid is sequence.grid else layout.mask.shape[1]
    merged = windows.merge_activations([run[spec.activations] for run in runs], layout, num_positions)
    if not np.isfinite(merged).all():
        raise InferenceFailed("the detector gave activations that are not finite numbers (NaN or infinity)")
    if spec.video_scores is None:
        return Curves(merged, merged.max(axis=0), grid)
    per_window = np.concatenate([run[spec.video_scores] for run in runs]).astype(np.float64)
    return Curves(merged, per_window[layout.mask.any(axis=1)].max(axis=0), grid)


def _check_curves(parts: list[Array], layout: WindowPlan, model: LoadedModel) -> None:
    needed = (layout.mask.shape[1], len(model.manifest.labels))
    for part in parts:
        if part.shape[1:] != needed:
            raise InferenceFailed(
                f"the detector gave activations {part.shape}; (B, {needed[0]}, {needed[1]}) is needed"
            )


def _scores_as_curves(sequence: FeatureSequence) -> Curves:
    scores = np.asarray(sequence.scores, np.float64)
    return Curves(scores, scores.max(axis=0), sequence.grid)


def _layout(sequence: FeatureSequence, model: LoadedModel) -> tuple[WindowPlan, SnippetGrid]:
    windowing = model.manifest.windowing
    if windowing is None:
        raise InferenceFailed("the bundle has a detector but no windowing")
    batch_windows = _there(model.detector).fixed_batch or 1
    layout = windows.pad_plan(windows.plan(sequence.num_snippets, windowing), batch_windows)
    grid = windows.window_grid(sequence.grid, sequence.num_snippets, sequence.clip_span_frames, windowing)
    return layout, grid


def _run_windows(
    sequence: FeatureSequence, model: LoadedModel, layout: WindowPlan, want: list[str], watch: Watch
) -> Iterator[tuple[WindowBatch, dict[str, Array]]]:
    graph, spec = _there(model.detector), _there(model.manifest.detector)
    values, total = _values(sequence), len(layout.mask)

    def run(part: slice) -> tuple[WindowBatch, dict[str, Array]]:
        batch = windows.gather(values, layout, model.ops, part)
        outputs = graph.session.run(_feeds(graph, spec.features, spec.mask, batch), want=want)
        return batch, {name: to_numpy(outputs[name]) for name in want}

    at_once = graph.fixed_batch or min(WINDOWS_PER_BATCH, max(1, STEPS_PER_BATCH // layout.mask.shape[1]))
    limit = watch.limit("detector", at_once, graph.fixed_batch or 1)
    for part, done in limit.each(total, run):
        yield done
        watch.tell("localize", part.stop, total)


def _feeds(graph: LoadedGraph, features_name: str, mask_name: str | None, batch: WindowBatch) -> dict[str, Tensor]:
    feeds: dict[str, Tensor] = {features_name: batch.features}
    if mask_name is not None:
        dtype = next(spec.dtype for spec in graph.session.inputs if spec.name == mask_name)
        feeds[mask_name] = batch.mask.astype(TENSOR_TYPES[dtype])
    return feeds


def _values(sequence: FeatureSequence) -> Tensor:
    if sequence.values is None:
        raise InferenceFailed("the streams give no features for the detector to see")
    return sequence.values


def _there(part: Part | None) -> Part:
    """What the manifest's schema has made sure of, told to the type checker."""
    if part is None:
        raise InferenceFailed("the bundle lacks a part that its manifest's schema asks for")
    return part
