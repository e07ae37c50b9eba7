"""JSON files with a `database` of videos, and the two files that BMN reads ActivityNet-1.3 from, in; `Dataset`s out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import InvalidOptions
from training.datasets.dataset import Dataset, Draft, Options, refusal
from training.datasets.files import first_of, folder_of, load_json, rows
from training.evaluation.annotations import Allowance, parse_ground_truth

BMN_ANNOTATIONS, BMN_VIDEOS, BMN_CLASSES = "anet_anno_action.json", "video_info_new.csv", "action_name.csv"


def read_activitynet(path: Path, options: Options) -> Dataset:
    """activity_net.v1-3.min.json: the leaves of its taxonomy are the classes."""
    file = path / "activity_net.v1-3.min.json" if path.is_dir() else path
    content = load_json(file)
    draft = Draft("activitynet-1.3", options)
    fill(draft, content)
    return draft.finish("activitynet", leaves(content))


def read_own(path: Path, options: Options) -> Dataset:
    """JSON in ActivityNet's form of one's own data: nothing in it is mended. `labels` may name the classes, and their
    order."""
    content = load_json(path)
    truth = parse_ground_truth(
        content, options.subset, Allowance(math.inf, empty=True) if options.as_published else Allowance()
    )
    database = content["database"]
    stated = content.get("labels")
    if stated is not None:
        problems = _label_problems(stated, truth.labels)
        if problems:
            raise refusal(problems, path.name)
        places = np.array([stated.index(label) for label in truth.labels], dtype=np.int64)
        truth = replace(truth, labels=tuple(stated), label_indices=places[truth.label_indices])
    draft = Draft(path.name, options)
    fps = {
        video: draft.positive(f"video {video!r}", "fps", database[video]["fps"])
        for video in truth.videos
        if database[video].get("fps") is not None
    }
    if draft.problems:
        raise refusal(draft.problems, path.name)
    subsets = {video: str(database[video]["subset"]) for video in truth.videos if "subset" in database[video]}
    return Dataset("json", truth, fps, "activitynet", (), subsets)


def read_bmn(path: Path, options: Options) -> Dataset:
    """The folder of anet_anno_action.json and video_info_new.csv. Segments are in the video's own seconds: BMN's
    "corrected" duration is only how much of it the features cover."""
    folder = folder_of(path)
    content = load_json(folder / BMN_ANNOTATIONS)
    draft = Draft("activitynet-bmn", options)
    stated = _bmn_videos(folder / BMN_VIDEOS, draft)
    if not isinstance(content, Mapping):
        raise InvalidOptions(f"{BMN_ANNOTATIONS} holds {type(content).__name__}; a mapping of videos is needed")
    draft.problems += [f"video {video!r} is not in {BMN_ANNOTATIONS}" for video in stated if video not in content]
    shorter: list[float] = []
    for video, entry in content.items():
        place = f"video {video!r}"
        if video not in stated or not isinstance(entry, Mapping):
            draft.report(place, f"is not in {BMN_VIDEOS}" if video not in stated else "is not a mapping")
            continue
        duration_s = draft.positive(place, "duration_second", entry.get("duration_second"))
        subset, draft.fps[video] = stated[video]
        draft.video(place, video, subset, duration_s)
        if video in draft.durations_s:
            covered = draft.number(place, "feature_frame", entry.get("feature_frame"))
            frames = draft.positive(place, "duration_frame", entry.get("duration_frame"))
            shorter.append(duration_s * (1 - covered / frames))
        _instances(draft, video, entry.get("annotations"))
    _note_coverage(draft, shorter)
    return draft.finish("activitynet", _bmn_classes(folder, draft))


def fill(draft: Draft, content: Any) -> None:
    """Every video of a database into the draft."""
    database = content.get("database") if isinstance(content, Mapping) else None
    if not isinstance(database, Mapping):
        raise InvalidOptions(f"{draft.name}: 'database' is missing; a mapping of videos is needed")
    for video, entry in database.items():
        place = f"video {video!r}"
        if not isinstance(entry, Mapping):
            draft.report(place, f"is {type(entry).__name__}; a mapping is needed")
            continue
        stated = entry.get("duration")
        duration_s = math.nan if stated is None else draft.positive(place, "duration", stated)
        subset = entry.get("subset")
        draft.video(place, video, None if subset is None else str(subset), duration_s)
        if entry.get("fps") is not None:
            draft.fps[video] = draft.positive(place, "fps", entry["fps"])
        _instances(draft, video, entry.get("annotations"))


def leaves(content: Any) -> tuple[str, ...] | None:
    """The classes of a taxonomy: its nodes that are nobody's parent."""
    nodes = content.get("taxonomy") if isinstance(content, Mapping) else None
    if not nodes:
        return None
    named = isinstance(nodes, list) and all(
        isinstance(node, Mapping) and isinstance(node.get("nodeName"), str) for node in nodes
    )
    if not named:
        raise InvalidOptions("'taxonomy' is not a list of nodes with nodeName and parentName")
    parents = {str(node.get("parentName")) for node in nodes}
    return tuple(sorted({node["nodeName"] for node in nodes} - parents))


def _instances(draft: Draft, video: str, items: Any) -> None:
    if not isinstance(items, Sequence) or isinstance(items, str):
        draft.report(f"video {video!r}", f"annotations is {type(items).__name__}; a list is needed")
        return
    for index, item in enumerate(items):
        place = f"video {video!r}, item {index}"
        segment = item.get("segment") if isinstance(item, Mapping) else None
        if not isinstance(segment, Sequence) or isinstance(segment, str) or len(segment) != 2:
            draft.report(place, f"segment is {segment!r}; [start, end] in seconds is needed")
            continue
        if not isinstance(item.get("label"), str):
            draft.report(place, f"label is {item.get('label')!r}; the name of a class is needed")
            continue
        if any(isinstance(end, str) for end in segment) and video in draft.durations_s:
            draft.mend("have their times as text; read as numbers", f"{video} {list(segment)}")
        ends = draft.number(place, "start", segment[0]), draft.number(place, "end", segment[1])
        draft.instance(place, video, ends, item["label"])


def _bmn_videos(path: Path, draft: Draft) -> dict[str, tuple[str, float]]:
    """{video: (subset, frames a second)}."""
    found: dict[str, tuple[str, float]] = {}
    for place, row in rows(path, ("video", "rfps", "subset"), draft):
        if row["video"] in found:
            draft.report(place, f"video {row['video']!r} is there already; each may come once")
        # `fps` is what the container claims; the frames over the seconds are what the features were made from.
        found[row["video"]] = row["subset"], draft.positive(place, "rfps", row["rfps"])
    return found


def _bmn_classes(folder: Path, draft: Draft) -> tuple[str, ...] | None:
    path = first_of(folder, BMN_CLASSES)
    return None if path is None else tuple(row["action"] for _, row in rows(path, ("action",), draft))


def _note_coverage(draft: Draft, shorter_s: Sequence[float]) -> None:
    away = [seconds for seconds in shorter_s if abs(seconds) > 0.5]
    if away:
        draft.notes.append(
            f"the features of {len(away)} videos cover a span that differs from the video by more than 0.5 s, "
            f"at most {max(away, key=abs):.1f} s (feature_frame against duration_frame); durations are the videos' own"
        )


def _label_problems(stated: Any, found: Sequence[str]) -> list[str]:
    if not isinstance(stated, list) or not all(isinstance(label, str) for label in stated):
        return [f"'labels' is {type(stated).__name__}; a list of names is needed"]
    repeated = sorted({label for label in stated if stated.count(label) > 1})
    unknown = sorted(set(found) - set(stated))
    return [f"'labels' names {label!r} more than once" for label in repeated] + [
        f"label {label!r} is none of the {len(stated)} in 'labels'" for label in unknown
    ]
