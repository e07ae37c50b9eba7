"""Class scores of whole videos that others published in; proposals without a class, named by them, out.

Detectors that find actions of any class are compared with scores that came with the data sets: those of the CUHK team
for ActivityNet (JSON) and those of UntrimmedNet for THUMOS14's test videos (an array whose rows are video numbers).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.postprocessing import Fusion
from service.errors import InvalidOptions, first_line

Floats = NDArray[np.float64]

# Of UCF101's classes those that THUMOS14 annotates, by their numbers from 1.
NUMBERS = (7, 9, 12, 21, 22, 23, 24, 26, 31, 33, 36, 40, 45, 51, 68, 79, 85, 92, 93, 97)
NAMES = (
    *("BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot"),
    *("Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault"),
    *("Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking"),
)
UCF_CLASSES = 101
VIDEO_NUMBER = re.compile(r"video_test_(\d+)")


@dataclass(frozen=True)
class VideoScores:
    """`of` gives a video's scores in [0, 1], in the order of `labels`; None for a video that is not there."""

    labels: tuple[str, ...]
    of: Callable[[str], Floats | None]

    def lacking(self, videos: Iterable[str]) -> list[str]:
        return [video for video in videos if self.of(video) is None]


def read_cuhk(path: Path) -> VideoScores:
    """{"results": {video: [score of each class]}, "class": [name of each]}; videos without the v_ of their files."""
    document = _json(path)
    names, results = document.get("class"), document.get("results")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidOptions(f"{path}: class is {type(names).__name__}; a list of names is needed")
    if not isinstance(results, Mapping):
        raise InvalidOptions(f"{path}: results is {type(results).__name__}; scores by video are needed")

    def of(video: str) -> Floats | None:
        row = results.get(video, results.get(video.removeprefix("v_")))
        return None if row is None else _checked(row, len(names), f"{path}: results of {video!r}")

    return VideoScores(tuple(names), of)


def read_untrimmednet(path: Path) -> VideoScores:
    """Scores (videos, 101) of THUMOS14's test videos, the first one's first; rows are brought to a sum of 1."""
    try:
        with path.open("rb") as file:
            table = np.asarray(np.load(file, allow_pickle=False), np.float64)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InvalidOptions(f"{path}: no array of numbers: {first_line(error)}") from None
    if table.ndim != 2 or table.shape[1] != UCF_CLASSES:
        raise InvalidOptions(f"{path}: scores have shape {table.shape}; (videos, {UCF_CLASSES}) is needed")
    columns = np.array(NUMBERS) - 1

    def of(video: str) -> Floats | None:
        number = VIDEO_NUMBER.fullmatch(video)
        row = int(number.group(1)) - 1 if number else -1
        if not 0 <= row < len(table):
            return None
        total = table[row].sum()
        share = table[row] / total if total > 0 else table[row]
        return _checked(share[columns], len(columns), f"{path}: row {row} ({video})")

    return VideoScores(NAMES, of)


READERS: Mapping[str, Callable[[Path], VideoScores]] = {"cuhk": read_cuhk, "untrimmednet": read_untrimmednet}


def read(form: str, path: Path) -> VideoScores:
    if form not in READERS:
        raise InvalidOptions(f"form {form!r} of video scores is not known; accepted are {', '.join(READERS)}")
    return READERS[form](path)


def named(predictions: Mapping[str, Any], scores: VideoScores, fusion: Fusion) -> dict[str, Any]:
    """ActivityNet's form of predictions of no class in, each under its video's likeliest classes, out."""
    results = {video: _named(found, scores.of(video), scores.labels, fusion) for video, found in _videos(predictions)}
    return {**predictions, "results": results}


def _videos(predictions: Mapping[str, Any]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    found: Mapping[str, list[dict[str, Any]]] = predictions["results"]
    return found.items()


def _named(
    found: list[dict[str, Any]], scores: Floats | None, labels: tuple[str, ...], fusion: Fusion
) -> list[dict[str, Any]]:
    if scores is None:
        return []
    likely = np.argsort(-scores, kind="stable")[: fusion.classes]
    return [
        {**one, "label": labels[place], "score": _joined(float(one["score"]), float(scores[place]), fusion)}
        for place in likely
        for one in found
    ]


def _joined(score: float, video_score: float, fusion: Fusion) -> float:
    if fusion.rule == "none":
        return score
    return math.sqrt(score * video_score) if fusion.rule == "sqrt" else score * video_score


def _checked(row: Any, count: int, what: str) -> Floats:
    try:
        values = np.asarray(row, np.float64)
    except (ValueError, TypeError):
        raise InvalidOptions(f"{what}: no row of numbers") from None
    if values.shape != (count,) or not np.isfinite(values).all() or values.min() < 0:
        raise InvalidOptions(f"{what}: {count} finite scores from 0 on are needed; their shape is {values.shape}")
    return values


def _json(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidOptions(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InvalidOptions(f"{path}: not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise InvalidOptions(f"{path}: a JSON object is needed, not {type(document).__name__}")
    return document
