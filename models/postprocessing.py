"""The rules between raw outputs and segments, as a manifest states them: the closed set, in two presets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.schema import Count, Fraction, NonNegative, Part, Positive

CANDIDATE_RULES = {
    *("min_candidate_score", "top_k_per_group", "top_k_per_window", "max_classes_per_candidate", "min_length_steps")
}


class Quirks(Part):
    """Deviations of published post-processings, for equality with their numbers (docs/bundle.md)."""

    overlap: Literal["iou", "coverage"] = "iou"
    inclusive: bool = True
    width_epsilon: NonNegative = 0.0
    spare_first: bool = False
    keep_last: bool = True
    zero_from_length: Positive | None = None


class Suppression(Part):
    """Non-maximum suppression; which numbers count depends on `kind` (docs/bundle.md)."""

    kind: Literal["hard", "linear", "gaussian", "bsn"]
    iou_threshold: Fraction = 0.5
    sigma: Positive = 0.5
    t1: NonNegative = 0.5
    t2: NonNegative = 0.9
    width_unit: Literal["normalised", "grid", "seconds"] = "normalised"
    min_score: NonNegative = 0.0
    max_kept: Count | None = None
    quirks: Quirks = Quirks()


class Voting(Part):
    iou_threshold: Fraction
    weight: Literal["score_iou", "score"] = "score_iou"


class Fusion(Part):
    """Joins a candidate's score with the scores of the video's `classes` likeliest classes, one segment per class."""

    rule: Literal["product", "sqrt", "none"] = "product"
    classes: Count = 2
    when: Literal["before_nms", "after_nms"] = "after_nms"
    detector_score: Literal["as_is", "max_over_classes"] = "as_is"


class Threshold(Part):
    """A class is active where its curve exceeds value (absolute), or value times the curve's mean or maximum."""

    kind: Literal["absolute", "mean", "max"]
    values: Annotated[tuple[NonNegative, ...], Field(min_length=1)]


class ActivationGrouping(Part):
    """From curves of class activation to spans; lengths in frames at the sampling rate."""

    support: Literal["point", "mean", "max"] = "point"
    ends: Literal["held", "cut"] = "held"
    normalise: Literal["none", "minmax"] = "none"
    threshold: Threshold
    dilation_frames: Annotated[int, Field(ge=0)] = 0
    max_gap_frames: Annotated[int, Field(ge=0)] = 0
    min_length_frames: Count = 1
    score: Literal["inner", "inner_outer", "max"] = "inner"
    outer_fraction: NonNegative = 0.25
    outer_context: Literal["clamped", "cmcs"] = "clamped"
    global_weight: NonNegative = 0.0
    min_video_score: NonNegative = 0.0
    max_classes: Count | None = None


class ScoreMap(Part):
    """score = min(1, max(0, score / divide_by)): a monotone rule for scores that leave [0, 1]."""

    divide_by: Positive = 1.0


class Postprocessing(Part):
    """The closed set of rules between raw outputs and segments."""

    min_candidate_score: NonNegative = 0.0
    top_k_per_group: Count | None = None
    top_k_per_window: Count | None = None
    max_classes_per_candidate: Count | None = None
    min_length_steps: NonNegative = 0.0
    min_length_s: NonNegative = 0.0
    max_length_s: Positive | None = None
    nms: Suppression | None = None
    nms_scope: Literal["window", "video", "window_then_video"] = "video"
    class_agnostic: bool = False
    voting: Voting | None = None
    fusion: Fusion = Fusion(rule="none")
    grouping: ActivationGrouping | None = None
    score_map: ScoreMap | None = ScoreMap()
    min_score: Fraction | None = None
    top_k: Count | None = None

    @model_validator(mode="after")
    def _rules_agree(self) -> Postprocessing:
        if self.voting and not (self.class_agnostic and self.nms):
            raise ValueError("voting moves what suppression over all classes kept: it needs nms and class_agnostic")
        if self.max_length_s is not None and self.max_length_s < self.min_length_s:
            raise ValueError(f"max_length_s {self.max_length_s} is less than min_length_s {self.min_length_s}")
        idle = sorted(CANDIDATE_RULES & self.model_fields_set)
        if self.grouping is not None and idle:
            raise ValueError(f"{', '.join(idle)}: rules for candidates have no meaning beside grouping")
        return self


class Presets(Part):
    """`use` answers people: few, confident segments. `evaluation` feeds a metric: many, with raw scores."""

    use: Postprocessing
    evaluation: Postprocessing | None = None
