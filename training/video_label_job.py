"""A detector that learns from labels of whole videos, and videos; the job that the loop trains out.

Annotations tell which actions a video holds; when they happen is looked at where the run is judged, and nowhere else. A
video with several labels is seen once for each, with a weight of one over their number. Static parts of videos are
videos of their own, labelled as background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.detectors.detector import Targets
from service.errors import InvalidOptions
from service.pipeline.features import FeatureSequence
from service.runtime.session import to_numpy
from training import static_parts
from training.detector_job import MIB, Batch, JudgedJob, Split, Subject, for_labels
from training.evaluation.protocols import Protocol
from training.plan import Plan
from training.static_parts import Bools, Motion, StaticRule

NO_SPANS = torch.empty(0, 2)


@dataclass(frozen=True)
class Source:
    """Videos to learn from, how many rows there are to each that the detector sees, and, where hard negatives are
    wanted, how much moves in a video."""

    split: Split
    every: int = 1
    motion: Callable[[str], Motion] | None = None


@dataclass(frozen=True)
class Example:
    """A video, or of it the rows in `static` alone, and the one label that it is shown with."""

    video: str
    label: int
    weight: float = 1.0
    static: Bools | None = None


class VideoLabelJob(JudgedJob):
    """Examples come in passes over all of them, each in an order of its own; a batch may reach into the next pass.

    A batch is padded and masked, and losses of its videos are added: the gradient is the sum of those of single videos,
    and an optimiser's step follows `batch_size` of them.
    """

    def __init__(
        self,
        subject: Subject,
        source: Source,
        validation: Split | None,
        plan: Plan,
        protocol: Protocol,
    ) -> None:
        super().__init__(subject, validation, protocol)
        subject.loaded(subject.network)  # rules that make no sense are refused before the first step
        self._load, self._training = source.split.load_all_rows, plan.training
        self._every = source.every
        self._cached: dict[str, NDArray[np.float32]] = {}
        self._room_bytes = plan.training.cache_mib * MIB
        self._examples = labelled(source.split, subject.labels)
        if not self._examples:
            raise InvalidOptions("no video of the training subset has an action; training needs some")
        if plan.static is not None and source.motion is not None:
            self._examples += self._negatives(plan.static, source.motion, source.split.ground_truth.duration_s_of)

    @property
    def steps_per_epoch(self) -> int:
        return self._training.epoch_steps or max(1, len(self._examples) // self._training.batch_size)

    @property
    def hard_negatives(self) -> int:
        return sum(example.static is not None for example in self._examples)

    def batch(self, step: int) -> Batch:
        """A function of the seed and the step alone."""
        seed, size, count = self._training.seed, self._training.batch_size, len(self._examples)
        places = [divmod(step * size + at, count) for at in range(size)]
        order = {turn: np.random.default_rng([seed, 0, turn]).permutation(count) for turn, _ in places}
        chosen = [self._examples[order[turn][place]] for turn, place in places]
        drawn = [self._draw(one, np.random.default_rng([seed, 1, step, at])) for at, one in enumerate(chosen)]
        longest = max(len(rows) for rows in drawn)
        padded = [np.pad(rows, ((0, longest - len(rows)), (0, 0))).T for rows in drawn]
        lengths = np.array([len(rows) for rows in drawn])
        return Batch(
            torch.from_numpy(np.stack(padded)),
            torch.from_numpy(np.arange(longest) < lengths[:, None]),
            tuple(Targets(NO_SPANS, torch.tensor([example.label]), example.weight) for example in chosen),
        )

    def _draw(self, example: Example, draws: np.random.Generator) -> NDArray[np.float32]:
        """(T, C): every so many rows, beginning at any of the first ones."""
        rows = self._rows(example.video)
        phase = int(draws.integers(phases(len(rows), self._every)))
        kept = slice(phase, None, self._every)
        seen = rows[kept][: max(1, len(rows) // self._every)]  # as many, wherever they begin
        return seen if example.static is None else seen[example.static[kept][: len(seen)]]

    def _rows(self, video: str) -> NDArray[np.float32]:
        known = self._cached.get(video)
        if known is not None:
            return known
        rows = _values(self._load(video))
        self._room_bytes -= rows.nbytes
        if self._room_bytes >= 0:
            self._cached[video] = rows
        else:
            self._room_bytes += rows.nbytes
        return rows

    def _negatives(
        self, rule: StaticRule, motion: Callable[[str], Motion], durations_s: Mapping[str, float]
    ) -> list[Example]:
        """One of each video whose static parts are of use and hold a row in every sequence that may be drawn."""
        background = self._subject.network.config.num_classes
        if not getattr(self._subject.network.config, "background", False):
            raise InvalidOptions("static: hard negatives are background, and the detector has no such class")
        found = []
        videos = dict.fromkeys(example.video for example in self._examples)
        for video in videos:
            moving = motion(video)
            static_parts.check_cover(moving, durations_s[video], video)
            frames = static_parts.static_frames(moving, rule)
            if not static_parts.is_usable(frames, rule):
                continue
            sequence = self._load(video)
            count = sequence.num_snippets
            rows = static_parts.static_rows(frames, moving, sequence.grid, count)
            shortest = max(1, count // self._every)
            starts = range(phases(count, self._every))
            if all(rows[phase :: self._every][:shortest].any() for phase in starts):
                found.append(Example(video, background, static=rows))
        if not found:
            raise InvalidOptions(
                f"static: none of {len(videos)} videos has still parts of use by percentile {rule.percentile:g}, "
                f"{rule.smoothing}, least_s {rule.least_s:g} and share {list(rule.share)}; without `static` there are "
                "no hard negatives"
            )
        return found


def labelled(train: Split, labels: tuple[str, ...]) -> list[Example]:
    truth = for_labels(train.ground_truth, labels)
    found = []
    for video in np.unique(truth.video_indices):
        there = np.unique(truth.label_indices[truth.video_indices == video])
        found += [Example(truth.videos[video], int(label), 1 / len(there)) for label in there]
    return found


def phases(rows: int, every: int) -> int:
    """Beginnings of which each leaves a row."""
    return max(1, min(every, rows))


def silent_rows(motion: Callable[[str], Motion], rule: StaticRule) -> Callable[[str, FeatureSequence], Bools]:
    """Which snippets of a video are static: for judging without them."""

    def silent(video: str, sequence: FeatureSequence) -> Bools:
        moving = motion(video)
        static_parts.check_cover(moving, sequence.grid.end_s - sequence.grid.start_s, video)
        frames = static_parts.static_frames(moving, rule)
        return static_parts.static_rows(frames, moving, sequence.grid, sequence.num_snippets)

    return silent


def _values(sequence: FeatureSequence) -> NDArray[np.float32]:
    return np.asarray(to_numpy(sequence.values) if sequence.values is not None else sequence.scores, np.float32)
