"""JSON that maps videos to numbered actions, as MultiTHUMOS and Charades are passed around, in; a filled draft out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.datasets.dataset import Draft


def fill_numbered(draft: Draft, content: Mapping[str, Any], names: Mapping[int, str]) -> None:
    """{video: {"subset", "duration", "actions": [[class, start, end]]}}; a class without a name keeps its number."""
    for video, entry in content.items():
        place = f"video {video!r}"
        actions = entry.get("actions") if isinstance(entry, Mapping) else None
        if not isinstance(actions, list):
            draft.report(place, "'actions' is missing; a list of [class, start, end] is needed")
            continue
        draft.video(place, video, str(entry.get("subset")), draft.positive(place, "duration", entry.get("duration")))
        for index, action in enumerate(actions):
            _instance(draft, f"{place}, item {index}", video, action, names)


def _instance(draft: Draft, place: str, video: str, action: Any, names: Mapping[int, str]) -> None:
    if not isinstance(action, Sequence) or isinstance(action, str) or len(action) != 3:
        draft.report(place, f"{action!r} is not [class, start, end]")
        return
    number = action[0]
    if not isinstance(number, int) or isinstance(number, bool) or (names and number not in names):
        draft.report(place, f"class {number!r} is none of the {len(names) or 'numbered'} classes")
        return
    ends = draft.number(place, "start", action[1]), draft.number(place, "end", action[2])
    draft.instance(place, video, ends, names.get(number, str(number)))
