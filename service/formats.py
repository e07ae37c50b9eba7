"""Localizations in, text out: JSON, JSON lines, CSV, ActivityNet, WebVTT, SubRip, or a table for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

from service.errors import InvalidOptions
from service.localization import Activations, Localization, ModelInfo, Segment, VideoInfo

Format = Literal["table", "json", "jsonl", "csv", "activitynet", "vtt", "srt"]
SUBTITLES = ("vtt", "srt")  # a file of these holds one video
STREAMED = ("table", "jsonl", "csv")  # results of these are written one after the other, as they come


def write(results: Sequence[Localization], wanted: Format, *, several: bool | None = None) -> str:
    """All results as one text. `several` says whether JSON is a list; by default, if there is not exactly one."""
    if wanted == "json":
        return _json(results, len(results) != 1 if several is None else several)
    return opening(wanted) + _WRITERS[wanted](results)


def opening(wanted: Format) -> str:
    """What stands before the first result."""
    return _csv_row("video", "start_s", "end_s", "label", "score") if wanted == "csv" else ""


def append(result: Localization, wanted: Format) -> str:
    """One result of a streamed format."""
    return _WRITERS[wanted]([result])


def as_document(result: Localization) -> dict[str, Any]:
    """The answer for one video as the JSON document that every door gives."""
    return {
        "video": {"name": result.video_name, **_rounded(asdict(result.video))},
        "model": asdict(result.model),
        "segments": [_segment(segment) for segment in result.segments],
        "timings": {f"{stage}_s": round(seconds, 4) for stage, seconds in result.timings_s.items()},
        "warnings": list(result.warnings),
        **({"details": result.details} if result.details else {}),
        **({"activations": _curves(result.activations)} if result.activations else {}),
    }


def from_document(document: Mapping[str, Any]) -> Localization:
    """The answer that such a document tells of; what a later release added to it is passed over."""
    curves = document.get("activations")
    return Localization(
        video_name=document["video"]["name"],
        video=VideoInfo(**_known(document["video"], VideoInfo)),
        model=ModelInfo(**_known(document["model"], ModelInfo)),
        segments=tuple(Segment(**_known(segment, Segment)) for segment in document["segments"]),
        timings_s={stage.removesuffix("_s"): seconds for stage, seconds in document["timings"].items()},
        warnings=tuple(document["warnings"]),
        details=dict(document.get("details", {})),
        activations=curves
        and Activations(tuple(curves["labels"]), tuple(curves["times_s"]), tuple(map(tuple, curves["values"]))),
    )


def _known(given: Mapping[str, Any], kind: type[VideoInfo | ModelInfo | Segment]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(kind)}


def _curves(curves: Activations) -> dict[str, Any]:
    return {
        "labels": list(curves.labels),
        "times_s": [round(moment_s, 4) for moment_s in curves.times_s],
        "values": [[round(value, 4) for value in row] for row in curves.values],
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": round(segment.start_s, 4),
        "end_s": round(segment.end_s, 4),
        "label": segment.label,
        "score": round(segment.score, 6),
    }


def _rounded(given: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in given.items()}


def _json(results: Sequence[Localization], several: bool) -> str:
    documents = [as_document(result) for result in results]
    shown = documents if several else documents[0]
    return json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonl(results: Sequence[Localization]) -> str:
    return "".join(json.dumps(as_document(result), ensure_ascii=False, allow_nan=False) + "\n" for result in results)


def _csv(results: Sequence[Localization]) -> str:
    rows = []
    for result in results:
        for segment in result.segments:
            told = _segment(segment)
            rows.append(_csv_row(result.video_name, *(told[name] for name in ("start_s", "end_s", "label", "score"))))
    return "".join(rows)


def _csv_row(*cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _activitynet(results: Sequence[Localization]) -> str:
    """ActivityNet's results file; a video's key is its name, without the ending where that is unique."""
    stems = [result.video_name.rsplit(".", 1)[0] for result in results]
    keys = [stem if stems.count(stem) == 1 else result.video_name for stem, result in zip(stems, results, strict=True)]
    if len(set(keys)) != len(keys):
        raise InvalidOptions(f"ActivityNet's format tells videos apart by name, and these stand twice: {_twice(keys)}")
    detections = {
        key: [
            {"label": s.label, "score": round(s.score, 6), "segment": [round(s.start_s, 4), round(s.end_s, 4)]}
            for s in result.segments
        ]
        for key, result in zip(keys, results, strict=True)
    }
    models = sorted({f"{result.model.name} {result.model.version}" for result in results})
    document = {
        "version": "VERSION 1.3",
        "results": detections,
        "external_data": {"used": True, "details": f"models: {', '.join(models)}"},
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _twice(names: Sequence[str]) -> str:
    return ", ".join(sorted({name for name in names if names.count(name) > 1}))


def _vtt(results: Sequence[Localization]) -> str:
    cues = [
        f"{_clock(s.start_s, '.')} --> {_clock(s.end_s, '.')}\n{_cue_text(s)}\n"
        for result in results
        for s in _by_time(result.segments)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _srt(results: Sequence[Localization]) -> str:
    segments = [s for result in results for s in _by_time(result.segments)]
    return "\n".join(
        f"{number}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{_cue_text(s)}\n"
        for number, s in enumerate(segments, 1)
    )


def _by_time(segments: Sequence[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda s: (s.start_s, s.end_s, s.label))


def _cue_text(segment: Segment) -> str:
    # A label with markup or an arrow in it would end the cue or change its look.
    label = segment.label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
    return f"{label} ({segment.score:.0%})"


def _clock(seconds: float, separator: str) -> str:
    milliseconds = max(0, round(seconds * 1000))
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{separator}{rest % 1000:03d}"


def _table(results: Sequence[Localization]) -> str:
    return "\n".join(_table_of(result) for result in results)


def _table_of(result: Localization) -> str:
    lines = [f"{result.video_name}  ({result.video.duration_s:.2f} s, {result.model.name} {result.model.version})"]
    if not result.segments:
        lines.append("  no actions found")
    width = max((len(s.label) for s in result.segments), default=0)
    lines += [f"  {s.start_s:9.2f} {s.end_s:9.2f}  {s.label:<{width}}  {s.score:6.3f}" for s in result.segments]
    lines += [f"  warning: {warning}" for warning in result.warnings]
    return "\n".join(lines) + "\n"


_WRITERS: dict[Format, Callable[[Sequence[Localization]], str]] = {
    "table": _table,
    "jsonl": _jsonl,
    "csv": _csv,
    "activitynet": _activitynet,
    "vtt": _vtt,
    "srt": _srt,
}
