"""Ego4D's moments_train.json and its sisters in; a `Dataset` of clips, with the primary labels, out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import InvalidOptions
from training.datasets.activitynet import fill
from training.datasets.dataset import Dataset, Draft, Options, listed
from training.datasets.files import load_json

SANE_FPS = (10.0, 100.0)


@dataclass(frozen=True)
class _Window:
    """Where a clip lies in its video."""

    start_s: float
    duration_s: float
    fps: float | None


def read_ego4d(path: Path, options: Options) -> Dataset:
    """A folder of `moments_*.json`, one of them, or JSON in ActivityNet's form that was made of them.

    A clip is a video here; its times count from its own start.
    """
    files = sorted(path.glob("moments_*.json")) if path.is_dir() else [path]
    if not files:
        raise InvalidOptions(f"{path} holds no moments_*.json, as Ego4D has them")
    draft = Draft("ego4d-mq", options)
    secondary = 0
    contradictory: list[str] = []
    for file in files:
        for place, clip, subset in _clips(file, draft):
            window = _window(draft, place, clip)
            if window is None:
                contradictory.append(clip["clip_uid"])
            else:
                secondary += _read_clip(draft, place, clip, subset, window)
    if contradictory:
        draft.notes.append(
            f"{len(contradictory)} clips have frames that contradict their seconds; left out: {listed(contradictory)}"
        )
    if secondary:
        draft.notes.append(f"{secondary} labels are not primary; left out, as the benchmark does")
    return draft.finish("ego4d")


def _clips(path: Path, draft: Draft) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(place, clip, subset)."""
    content = load_json(path)
    if isinstance(content, Mapping) and "database" in content:
        fill(draft, content)
        return
    videos = content.get("videos") if isinstance(content, Mapping) else None
    if not isinstance(videos, list):
        raise InvalidOptions(f"{path} has no list 'videos', as Ego4D's moments have")
    stated = content.get("split") or path.stem.removeprefix("moments_").removesuffix("_unannotated")
    for index, video in enumerate(videos):
        clips = video.get("clips") if isinstance(video, Mapping) else None
        if not isinstance(clips, list):
            draft.report(f"{path.name}, video {index}", "'clips' is missing; a list is needed")
            continue
        for number, clip in enumerate(clips):
            place = f"{path.name}, video {index}, clip {number}"
            if isinstance(clip, Mapping) and isinstance(clip.get("clip_uid"), str):
                yield place, clip, str(video.get("split") or stated)
            else:
                draft.report(place, "'clip_uid' is missing")


def _read_clip(draft: Draft, place: str, clip: Mapping[str, Any], subset: str, window: _Window) -> int:
    """The clip into the draft; out: how many of its labels are not primary."""
    draft.video(place, clip["clip_uid"], subset, window.duration_s)
    if window.fps is not None:
        draft.fps[clip["clip_uid"]] = window.fps
    secondary = 0
    annotations = clip.get("annotations") or []
    if not isinstance(annotations, list):
        draft.report(place, f"annotations is {type(annotations).__name__}; a list is needed")
        return 0
    for annotator, annotation in enumerate(annotations):
        labels = annotation.get("labels") if isinstance(annotation, Mapping) else None
        if not isinstance(labels, list):
            draft.report(f"{place}, annotation {annotator}", "'labels' is missing; a list is needed")
            continue
        for number, label in enumerate(labels):
            where = f"{place}, annotation {annotator}, label {number}"
            secondary += _read_label(draft, where, clip["clip_uid"], label, window)
    return secondary


def _read_label(draft: Draft, place: str, clip: str, label: Any, window: _Window) -> bool:
    """Whether it was left out for not being primary."""
    if not isinstance(label, Mapping) or not isinstance(label.get("label"), str):
        draft.report(place, "'label' is missing; the name of a class is needed")
        return False
    if not label.get("primary", True):
        return clip in draft.durations_s
    # Times in the video are what others convert from; those in the clip count from where it was cut out of another.
    prefix, origin_s = ("video_", window.start_s) if "video_start_time" in label else ("", 0.0)
    start_s, end_s = (
        draft.number(place, name, label.get(name)) for name in (f"{prefix}start_time", f"{prefix}end_time")
    )
    draft.instance(place, clip, (round(start_s - origin_s, 6), round(end_s - origin_s, 6)), label["label"])
    return False


def _window(draft: Draft, place: str, clip: Mapping[str, Any]) -> _Window | None:
    """None for a clip whose frames and seconds contradict each other, as a few published ones do."""
    prefix = "video" if clip.get("video_end_sec") is not None else "clip"
    if clip.get(f"{prefix}_end_sec") is None:
        return _Window(0.0, math.nan, None)
    start_s = max(draft.number(place, "start", clip.get(f"{prefix}_start_sec", 0.0)), 0.0)
    duration_s = draft.positive(
        place, "the clip's duration", draft.number(place, "end", clip[f"{prefix}_end_sec"]) - start_s
    )
    if clip.get(f"{prefix}_end_frame") is None or math.isnan(duration_s):
        return _Window(start_s, duration_s, None)
    first = max(draft.number(place, "start_frame", clip.get(f"{prefix}_start_frame", 0)), 0.0)
    fps = (draft.number(place, "end_frame", clip[f"{prefix}_end_frame"]) - first) / duration_s
    if not SANE_FPS[0] <= fps <= SANE_FPS[1]:
        return None
    return _Window(start_s, duration_s, fps)
