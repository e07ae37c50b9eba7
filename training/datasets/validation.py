"""A data set and the features of its videos in; all problems, or one error with all of them, out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from service.errors import InvalidOptions
from training.datasets.dataset import ROUNDING_S, Dataset, listed, refusal
from training.evaluation.annotations import GroundTruth
from training.evaluation.protocols import PROTOCOLS
from training.feature_names import ENDINGS, names_of


def find_features(folder: Path) -> dict[str, Path]:
    """{stem: file} of the feature files of a folder."""
    if not folder.is_dir():
        raise InvalidOptions(f"{folder} is not a folder; a folder with one feature file per video is needed")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in ENDINGS:
            if path.stem in found:
                raise InvalidOptions(f"{found[path.stem]} and {path.name} are features of one video; one is needed")
            found[path.stem] = path
    return found


def feature_of(video: str, features: Mapping[str, Path]) -> Path | None:
    """By the names that training looks for."""
    return next((features[name] for name in names_of(video) if name in features), None)


def check(
    dataset: Dataset, features: Mapping[str, Path] | None = None, labels: Collection[str] | None = None
) -> tuple[str, ...]:
    """All problems: without features, features are not asked for; without labels, any label will do."""
    problems = [*_malformed(dataset.ground_truth), *_bad_rates(dataset)]
    if dataset.protocol not in PROTOCOLS:
        problems.append(f"protocol {dataset.protocol!r} is not known; accepted are {', '.join(PROTOCOLS)}")
    if labels is not None:
        unknown = sorted(set(dataset.ground_truth.labels) - set(labels))
        problems += [f"label {label!r} is none of the {len(labels)} given" for label in unknown]
    if features is not None:
        lacking = [video for video in dataset.ground_truth.videos if feature_of(video, features) is None]
        problems += [f"video {video!r}: no feature file" for video in lacking]
    return (*problems, *_bad_segments(dataset.ground_truth)) if not _broken(dataset.ground_truth) else tuple(problems)


def feature_notes(dataset: Dataset, features: Mapping[str, Path]) -> tuple[str, ...]:
    """Feature files of no video that the data set knows."""
    known = {*dataset.ground_truth.videos, *dataset.ground_truth.elsewhere}
    named = {name for video in known for name in names_of(video)}
    spare = [stem for stem in features if stem not in named]
    return (f"{len(spare)} feature files belong to no annotated video: {listed(spare)}",) if spare else ()


def validate(
    dataset: Dataset, features: Mapping[str, Path] | None = None, labels: Collection[str] | None = None
) -> None:
    """Raises one error that tells all problems."""
    problems = check(dataset, features, labels)
    if problems:
        raise refusal(problems, dataset.name)


def _malformed(truth: GroundTruth) -> Iterator[str]:
    for what, names in (("video", truth.videos), ("label", truth.labels)):
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        yield from (f"{what} {name!r} is there more than once" for name in twice)
    for video, duration_s in zip(truth.videos, truth.durations_s, strict=False):
        if duration_s <= 0 or np.isinf(duration_s):
            yield f"video {video!r}: duration is {duration_s}; a number of seconds above 0 is needed"
    if _broken(truth):
        yield "an instance is of a video or label that the data set lacks"


def _broken(truth: GroundTruth) -> bool:
    pairs = (truth.video_indices, truth.videos), (truth.label_indices, truth.labels)
    return any(len(indices) and (indices.min() < 0 or indices.max() >= len(names)) for indices, names in pairs)


def _bad_rates(dataset: Dataset) -> Iterator[str]:
    known = set(dataset.ground_truth.videos)
    for video, fps in dataset.fps.items():
        if video not in known:
            yield f"video {video!r} has a frame rate and is no video of the data set"
        if not 0 < fps < np.inf:
            yield f"video {video!r}: fps is {fps}; a number above 0 is needed"


def _bad_segments(truth: GroundTruth) -> Iterator[str]:
    for index, (video_index, (start_s, end_s)) in enumerate(zip(truth.video_indices, truth.segments_s, strict=True)):
        duration_s = truth.durations_s[video_index]
        shown = f"video {truth.videos[video_index]!r}, instance {index}: segment [{start_s}, {end_s}]"
        if not (np.isfinite(start_s) and np.isfinite(end_s)):
            yield f"{shown} holds no finite numbers"
            continue
        if end_s <= start_s:
            yield f"{shown} has no length" if end_s == start_s else f"{shown} ends before it starts"
        if start_s < -ROUNDING_S:
            yield f"{shown} starts before 0"
        if end_s > duration_s + ROUNDING_S:
            yield f"{shown} ends after its video, which lasts {duration_s} s"
