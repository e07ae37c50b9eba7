"""Videos and instances as a file tells them in; a `Dataset` with notes of what was mended, or all problems, out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.errors import InvalidOptions
from training.evaluation.annotations import GroundTruth

ROUNDING_S = 0.01  # published times are rounded: so much beyond a border is no fault
EXAMPLES = 3
SAME_SUBSET = {"train": "training", "val": "validation", "testing": "test"}


@dataclass(frozen=True)
class Dataset:
    """A data set as everything here understands it.

    fps: of the videos whose frame rate the file says. protocol: a name in `training.evaluation.protocols`.
    notes: what was mended and what is peculiar. subsets: of the videos whose subset the file says.
    """

    name: str
    ground_truth: GroundTruth
    fps: Mapping[str, float]
    protocol: str
    notes: tuple[str, ...] = ()
    subsets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What is wanted of a data set's files.

    task: of EPIC-Kitchens alone. as_published: segments that end after their video or have no length stay as they are,
    for figures that equal those of the official code, which knows no better.
    """

    subset: str | None = None
    task: str = "verb"
    as_published: bool = False


@dataclass(frozen=True)
class Mending:
    """Which faults the published files are known to have; any other is a problem.

    inside: the share of a segment that must lie in its video for the rest to be cut off; with less of it, an end is
    mistyped rather than late. reversed: segments that end before they start.
    """

    inside: float = 0.5
    reversed: bool = False


def same_subset(one: str | None, other: str | None) -> bool:
    """Whether both name the same subset: `val` is `Validation`."""
    return _plain_subset(one) == _plain_subset(other)


def refusal(problems: Sequence[str], what: str) -> InvalidOptions:
    """One error that tells all problems."""
    count = len(problems)
    return InvalidOptions("\n".join([f"{count} problem{'s' if count > 1 else ''} in {what}:", *problems]))


def listed(examples: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = len(examples) - EXAMPLES
    return ", ".join(examples[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")


class Draft:
    """What was read so far, what was mended, and all that was wrong."""

    def __init__(self, name: str, options: Options, mending: Mending = Mending()) -> None:
        self.name, self.options, self.mending = name, options, mending
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.durations_s: dict[str, float] = {}
        self.fps: dict[str, float] = {}
        self.subsets: dict[str, str] = {}
        self.elsewhere: dict[str, str] = {}
        self.labels: set[str] = set()
        self._mended: dict[str, list[str]] = {}
        self._rows: list[tuple[str, float, float, str]] = []

    def report(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {problem}")

    def mend(self, kind: str, example: str) -> None:
        self._mended.setdefault(kind, []).append(example)

    def number(self, place: str, what: str, value: object) -> float:
        """A finite number, also one that is written as text; NaN once reported."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.report(place, f"{what} is {value!r}; a finite number is needed")
            return math.nan
        return number

    def positive(self, place: str, what: str, value: object) -> float:
        number = self.number(place, what, value)
        if number <= 0:
            self.report(place, f"{what} is {value!r}; a number above 0 is needed")
            return math.nan
        return number

    def video(self, place: str, video: str, subset: str | None = None, duration_s: float = math.nan) -> None:
        """A video that the file names once."""
        if not video:
            self.report(place, "the video has no name")
        elif video in self.durations_s or video in self.elsewhere:
            self.report(place, f"video {video!r} is there already; each may come once")
        else:
            self.seen(video, subset, duration_s)

    def seen(self, video: str, subset: str | None = None, duration_s: float = math.nan) -> None:
        """A video that the file names with every instance."""
        if video in self.durations_s or video in self.elsewhere:
            return
        if self.options.subset is not None and not same_subset(subset, self.options.subset):
            self.elsewhere[video] = str(subset)
            return
        self.durations_s[video] = duration_s
        if subset is not None:
            self.subsets[video] = subset

    def instance(self, place: str, video: str, segment_s: tuple[float, float], label: str) -> None:
        """One instance of a video that was seen; of other subsets only the label is kept."""
        self.labels.add(label)
        if video not in self.durations_s or any(math.isnan(end_s) for end_s in segment_s):
            return
        kept = self._mended_segment(place, video, segment_s)
        if kept is not None:
            self._rows.append((video, *kept, label))

    def _mended_segment(self, place: str, video: str, segment_s: tuple[float, float]) -> tuple[float, float] | None:
        start_s, end_s = segment_s
        shown = f"{video} [{start_s:g}, {end_s:g}]"
        if end_s < start_s and not self.mending.reversed:
            self.report(place, f"segment [{start_s}, {end_s}] ends before it starts")
            return None
        if end_s < start_s:
            self.mend("end before they start; left out", shown)
            return None
        if end_s == start_s:
            return self._empty(shown, segment_s)
        return self._within(shown, segment_s, self.durations_s[video])

    def _empty(self, shown: str, segment_s: tuple[float, float]) -> tuple[float, float] | None:
        if self.options.as_published:
            self.mend("have no length; kept as published", shown)
            return segment_s
        self.mend("have no length; left out", shown)
        return None

    def _within(self, shown: str, segment_s: tuple[float, float], duration_s: float) -> tuple[float, float] | None:
        """The part that lies in the video; an unknown duration, NaN, bounds nothing."""
        start_s, end_s = segment_s
        if not (end_s > duration_s + ROUNDING_S or start_s < -ROUNDING_S):
            return segment_s
        if self.options.as_published:
            self.mend("reach beyond their video; kept as published", shown)
            return segment_s
        inside_s = max(start_s, 0.0), min(end_s, duration_s) if end_s > duration_s else end_s
        if inside_s[0] >= inside_s[1]:
            self.mend("lie outside their video; left out", shown)
            return None
        if inside_s[1] - inside_s[0] < self.mending.inside * (end_s - start_s):
            self.mend(f"lie in their video with less than {self.mending.inside:.0%}; left out", shown)
            return None
        beyond_s = (end_s - start_s) - (inside_s[1] - inside_s[0])
        self.mend("reach beyond their video; cut at its border", f"{shown} by {beyond_s:.3g} s")
        return inside_s

    def finish(self, protocol: str, labels: Sequence[str] | None = None) -> Dataset:
        """The data set; labels: the classes that a list of them names, in its order."""
        names = tuple(labels) if labels is not None else tuple(sorted(self.labels))
        known = set(names)
        self.problems += [
            f"label {label!r} is none of the {len(names)} classes" for label in sorted(self.labels - known)
        ]
        if not self.durations_s and not self.problems:
            self.problems.append(self._nothing())
        if self.problems:
            raise refusal(self.problems, self.name)
        return Dataset(self.name, self._ground_truth(names), self._fps(), protocol, self._notes(), self.subsets)

    def _fps(self) -> dict[str, float]:
        return {video: rate for video, rate in self.fps.items() if video in self.durations_s}

    def _nothing(self) -> str:
        if self.options.subset is None:
            return "there is no video in it"
        found = ", ".join(sorted(set(self.elsewhere.values()))) or "none"
        return f"there is no video of subset {self.options.subset!r}; subsets in it: {found}"

    def _ground_truth(self, labels: tuple[str, ...]) -> GroundTruth:
        videos = tuple(self.durations_s)
        video_places = {video: index for index, video in enumerate(videos)}
        label_places = {label: index for index, label in enumerate(labels)}
        # Files of one class each scatter a video's instances; readers of the result expect them together.
        rows = sorted(self._rows, key=lambda instance: video_places[instance[0]])
        return GroundTruth(
            videos,
            labels,
            np.array([video_places[video] for video, *_ in rows], dtype=np.int64),
            np.array([(start_s, end_s) for _, start_s, end_s, _ in rows], dtype=np.float64).reshape(-1, 2),
            np.array([label_places[label] for *_, label in rows], dtype=np.int64),
            np.array(list(self.durations_s.values()), dtype=np.float64),
            self.elsewhere,
        )

    def _notes(self) -> tuple[str, ...]:
        mended = [f"{len(found)} segments {kind}: {listed(found)}" for kind, found in self._mended.items()]
        repeated = len(self._rows) - len(set(self._rows))
        if repeated:
            mended.append(f"{repeated} instances repeat another one exactly; kept")
        return (*self.notes, *mended)


def _plain_subset(subset: str | None) -> str | None:
    name = subset.lower() if subset is not None else None
    return SAME_SUBSET.get(name, name) if name is not None else None
