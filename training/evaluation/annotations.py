"""JSON in ActivityNet's form in, frozen arrays of segments out; all problems of a file in one error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidOptions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class GroundTruth:
    """Instances of actions: instance i is segments_s[i] of class labels[label_indices[i]] in videos[video_indices[i]].

    videos: all that were asked for, those without an instance too: what is predicted there is wrong.
    labels: all that may be predicted; only those with an instance are averaged over.
    """

    videos: tuple[str, ...]
    labels: tuple[str, ...]
    video_indices: Ints
    segments_s: Floats
    label_indices: Ints
    durations_s: Floats  # (videos,); NaN where the file says nothing
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # videos of the file that were not asked for: subset

    @property
    def duration_s_of(self) -> dict[str, float]:
        """By video; NaN where the file says nothing."""
        return dict(zip(self.videos, self.durations_s.tolist(), strict=True))


@dataclass(frozen=True)
class Predictions:
    """Scored segments in the order of their file; indices are those of the ground truth's `videos` and `labels`.

    The video index len(videos) stands for any video that the ground truth lacks.
    """

    video_indices: Ints
    segments_s: Floats
    label_indices: Ints
    scores: Floats


@dataclass(frozen=True)
class Allowance:
    """What is let through although it looks wrong.

    overrun_s: how far a segment may end after its video; published times are rounded.
    empty: segments without length are kept; ActivityNet 1.3 has some, which no prediction can match.
    unknown_videos: predictions for videos that the ground truth lacks are kept, and wrong, as in the official code.
    """

    overrun_s: float = 0.01
    empty: bool = False
    unknown_videos: bool = False


def read_ground_truth(path: Path, subset: str | None = None, allowance: Allowance = Allowance()) -> GroundTruth:
    """The instances of one subset of a file, or of the whole file."""
    return parse_ground_truth(_load(path), subset, allowance)


def read_predictions(path: Path, ground_truth: GroundTruth, allowance: Allowance = Allowance()) -> Predictions:
    """The predictions of a file, for videos and labels of the ground truth."""
    return parse_predictions(_load(path), ground_truth, allowance)


def parse_ground_truth(content: Any, subset: str | None = None, allowance: Allowance = Allowance()) -> GroundTruth:
    """{"database": {video: {"subset", "duration", "annotations": [{"segment", "label"}]}}} as arrays."""
    database = content.get("database") if isinstance(content, Mapping) else None
    if not isinstance(database, Mapping):
        raise InvalidOptions(f"the ground truth has {_kind(database)} for 'database'; a mapping of videos is needed")
    reading = _Reading("ground truth", allowance)
    videos: list[str] = []
    durations: list[float] = []
    elsewhere: dict[str, str] = {}
    labels: set[str] = set()
    for video, entry in database.items():
        if not isinstance(entry, Mapping):
            reading.report(video, None, f"is {_kind(entry)}; a mapping is needed")
            continue
        # A label of another subset is known, too: a detector may predict it.
        labels |= _labels_in(entry.get("annotations"))
        if subset is not None and entry.get("subset") != subset:
            elsewhere[video] = str(entry.get("subset"))
            continue
        duration_s = reading.duration_s(video, entry)
        reading.items(video, len(videos), duration_s, entry.get("annotations"), scored=False)
        videos.append(video)
        durations.append(duration_s)
    reading.finish()
    if not videos:
        found = ", ".join(sorted(set(elsewhere.values()))) or "none"
        raise InvalidOptions(f"the ground truth has no video of subset {subset!r}; subsets in it: {found}")
    names = tuple(sorted(labels))
    return GroundTruth(
        tuple(videos),
        names,
        np.array(reading.video_indices, dtype=np.int64),
        np.array(reading.segments_s, dtype=np.float64).reshape(-1, 2),
        _positions(reading.labels, names),
        np.array(durations, dtype=np.float64),
        elsewhere,
    )


def parse_predictions(content: Any, ground_truth: GroundTruth, allowance: Allowance = Allowance()) -> Predictions:
    """{"results": {video: [{"label", "segment", "score"}]}}, or that mapping of videos alone, as arrays."""
    results = content.get("results", content) if isinstance(content, Mapping) else content
    if not isinstance(results, Mapping):
        raise InvalidOptions(f"the predictions have {_kind(results)} for 'results'; a mapping of videos is needed")
    reading = _Reading("predictions", allowance, frozenset(ground_truth.labels))
    places = {video: index for index, video in enumerate(ground_truth.videos)}
    for video, items in results.items():
        if video in places:
            duration_s = float(ground_truth.durations_s[places[video]])
            reading.items(video, places[video], duration_s, items, scored=True)
        elif video in ground_truth.elsewhere:
            reading.report(video, None, f"is of subset {ground_truth.elsewhere[video]!r}, which is not evaluated")
        elif allowance.unknown_videos:
            reading.items(video, len(places), math.nan, items, scored=True)
        else:
            reading.report(video, None, "is not a video of the ground truth")
    reading.finish()
    return Predictions(
        np.array(reading.video_indices, dtype=np.int64),
        np.array(reading.segments_s, dtype=np.float64).reshape(-1, 2),
        _positions(reading.labels, ground_truth.labels),
        np.array(reading.scores, dtype=np.float64),
    )


def without_duplicates(ground_truth: GroundTruth, tolerance_s: float = 1e-3) -> GroundTruth:
    """The ground truth as ActionFormer reads it: without instances shorter than the tolerance, and without those that
    repeat an earlier one of their video and label, both ends within the tolerance."""
    kept: dict[tuple[int, int], list[int]] = {}
    indices: list[int] = []
    segments_s = ground_truth.segments_s
    for index, place in enumerate(zip(ground_truth.video_indices, ground_truth.label_indices, strict=True)):
        earlier = kept.setdefault((int(place[0]), int(place[1])), [])
        length_s = segments_s[index, 1] - segments_s[index, 0]
        if length_s < tolerance_s or (np.abs(segments_s[earlier] - segments_s[index]) <= tolerance_s).all(axis=1).any():
            continue
        earlier.append(index)
        indices.append(index)
    return replace(
        ground_truth,
        video_indices=ground_truth.video_indices[indices],
        segments_s=segments_s[indices],
        label_indices=ground_truth.label_indices[indices],
    )


class _Reading:
    """What was read so far, and all that was wrong with it."""

    def __init__(self, what: str, allowance: Allowance, labels: frozenset[str] | None = None) -> None:
        self.what, self.allowance, self.known_labels = what, allowance, labels
        self.problems: list[str] = []
        self.video_indices: list[int] = []
        self.segments_s: list[tuple[float, float]] = []
        self.labels: list[str] = []
        self.scores: list[float] = []

    def report(self, video: object, index: int | None, problem: str) -> None:
        place = f"video {video!r}" if index is None else f"video {video!r}, item {index}"
        self.problems.append(f"{place}: {problem}")

    def finish(self) -> None:
        if self.problems:
            count = len(self.problems)
            head = f"{count} problem{'s' if count > 1 else ''} in the {self.what}:"
            raise InvalidOptions("\n".join([head, *self.problems]))

    def duration_s(self, video: str, entry: Mapping[str, Any]) -> float:
        """The stated duration, or NaN."""
        if "duration" not in entry:
            return math.nan
        value = entry["duration"]
        if _is_number(value) and 0 < (duration_s := _as_float(value)) < math.inf:
            return duration_s
        self.report(video, None, f"duration is {value!r}; a number of seconds above 0 is needed")
        return math.nan

    def items(self, video: str, video_index: int, duration_s: float, items: Any, *, scored: bool) -> None:
        if not isinstance(items, Sequence) or isinstance(items, str):
            name = "predictions" if scored else "annotations"
            self.report(video, None, f"has {_kind(items)} for its {name}; a list is needed")
            return
        for index, item in enumerate(items):
            if not isinstance(item, Mapping):
                self.report(video, index, f"is {_kind(item)}; a mapping is needed")
                continue
            before = len(self.problems)
            segment = self._segment(video, index, item, duration_s)
            label = self._label(video, index, item)
            score = self._score(video, index, item) if scored else 0.0
            if len(self.problems) == before:
                self.video_indices.append(video_index)
                self.segments_s.append(segment)
                self.labels.append(label)
                self.scores.append(score)

    def _segment(self, video: str, index: int, item: Mapping[str, Any], duration_s: float) -> tuple[float, float]:
        """The segment; (0, 0) once reported."""
        if "segment" not in item:
            self.report(video, index, "key 'segment' is missing; [start, end] in seconds is needed")
            return 0.0, 0.0
        value = item["segment"]
        pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
        if not pair or not all(_is_number(end) for end in value):
            self.report(video, index, f"segment is {value!r}; [start, end] as two numbers of seconds is needed")
            return 0.0, 0.0
        start_s, end_s = _as_float(value[0]), _as_float(value[1])
        if not (math.isfinite(start_s) and math.isfinite(end_s)):
            self.report(video, index, f"segment is [{start_s}, {end_s}]; only finite numbers are accepted")
            return 0.0, 0.0
        if end_s < start_s or (end_s == start_s and not self.allowance.empty):
            self.report(video, index, f"segment [{start_s}, {end_s}] has no positive length; end must exceed start")
        if start_s < -self.allowance.overrun_s:
            self.report(video, index, f"segment [{start_s}, {end_s}] starts before 0")
        if end_s > duration_s + self.allowance.overrun_s:
            self.report(video, index, f"segment [{start_s}, {end_s}] ends after the video, which lasts {duration_s} s")
        return start_s, end_s

    def _label(self, video: str, index: int, item: Mapping[str, Any]) -> str:
        if "label" not in item:
            self.report(video, index, "key 'label' is missing; the name of a class is needed")
            return ""
        label = item["label"]
        if not isinstance(label, str):
            self.report(video, index, f"label is {label!r}; the name of a class is needed")
            return ""
        if self.known_labels is not None and label not in self.known_labels:
            self.report(video, index, f"label {label!r} is none of the {len(self.known_labels)} of the ground truth")
        return label

    def _score(self, video: str, index: int, item: Mapping[str, Any]) -> float:
        if "score" not in item:
            self.report(video, index, "key 'score' is missing; a number is needed")
            return 0.0
        score = item["score"]
        if not _is_number(score) or not math.isfinite(_as_float(score)):
            self.report(video, index, f"score is {score!r}; a finite number is needed")
            return 0.0
        return float(score)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidOptions(f"{path} cannot be read ({error.strerror}); a JSON file is needed") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidOptions(f"{path} is not JSON: {error}") from error


def _labels_in(items: Any) -> set[str]:
    """Names of classes in a list that has not been checked yet."""
    if not isinstance(items, list):
        return set()
    return {item["label"] for item in items if isinstance(item, Mapping) and isinstance(item.get("label"), str)}


def _positions(labels: Sequence[str], names: Sequence[str]) -> Ints:
    places = {name: index for index, name in enumerate(names)}
    return np.array([places[label] for label in labels], dtype=np.int64)


def _is_number(value: object) -> bool:
    # JSON's true would pass as 1.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: float) -> float:
    """The number, infinite where it is a whole number that no float holds; JSON sets those no limit."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _kind(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"[:80]
