"""A folder or a manifest, and what is wanted of its videos, in; a batch's items, each with a key of its own, out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from service.client import Ask, StoredVideo, VideoUrl
from service.client.uploads import MEDIA_TYPES
from service.errors import InvalidOptions, TalError, first_line
from service.localization import DetectOptions

URL_SCHEMES = ("http://", "https://")
OPTIONS = {field.name for field in fields(DetectOptions)}
OTHERS = {"model", "priority", "tags"}
LISTS = {"labels", "include", "tags"}


@dataclass(frozen=True)
class BatchItem:
    """`key` changes with the file and with what is wanted of it; `error` is what the manifest itself keeps from it."""

    custom_id: str
    source: Path | StoredVideo | VideoUrl | None
    ask: Ask
    error: TalError | None = None

    @property
    def key(self) -> str:
        wanted = [self.ask.model, vars(self.ask.options), self.ask.priority, self.ask.tags]
        return hashlib.sha256(json.dumps([self._source(), *wanted]).encode()).hexdigest()

    def _source(self) -> list[Any]:
        if not isinstance(self.source, Path):
            return ["" if self.source is None else str(self.source)]
        try:
            about = self.source.stat()
        except OSError:
            return [str(self.source.absolute())]
        return [str(self.source.absolute()), about.st_size, about.st_mtime_ns]


def read_items(source: Path, ask: Ask, glob: str | None) -> list[BatchItem]:
    """Raises InvalidOptions for a source that is none, and for an id that stands twice."""
    if source.is_dir():
        items = [BatchItem(path.relative_to(source).as_posix(), path, ask) for path in _videos(source, glob)]
    elif glob is not None:
        raise InvalidOptions(f"--glob chooses files of a folder; {source} is none")
    else:
        items = list(_manifest(source, ask))
    if not items:
        raise InvalidOptions(f"{source} names no video")
    often, count = Counter(item.custom_id for item in items).most_common(1)[0]
    if count > 1:
        raise InvalidOptions(f"{source} names {often!r} {count} times; give each line a custom_id of its own")
    return items


def _videos(folder: Path, glob: str | None) -> list[Path]:
    found = sorted(path for path in folder.rglob(glob or "*") if path.is_file())
    return found if glob else [path for path in found if path.suffix.lower() in MEDIA_TYPES]


def _manifest(path: Path, ask: Ask) -> Iterator[BatchItem]:
    """A line is a path, a URL, or JSON as `POST /v1/batches` takes it, with `{"path": …}` besides."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOptions(f"{path} cannot be read: {first_line(error)}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not (line := line.strip()):
            continue
        if line.startswith("{"):
            yield _described(line, str(number), path.parent, ask)
        else:
            video = VideoUrl(line) if line.startswith(URL_SCHEMES) else path.parent / line
            yield BatchItem(line, video, ask)


def _described(line: str, custom_id: str, folder: Path, ask: Ask) -> BatchItem:
    """What makes no sense is this item's error."""
    try:
        document = json.loads(line)
        custom_id = _text(document.pop("custom_id", custom_id), "custom_id")
        source = _source(document.pop("video", {}), folder)
        return BatchItem(custom_id, source, _asked(document, ask))
    except (ValueError, RecursionError) as error:
        return BatchItem(custom_id, None, ask, InvalidOptions(f"no JSON: {error}"))
    except TalError as error:
        return BatchItem(custom_id, None, ask, error)


def _source(video: Any, folder: Path) -> Path | StoredVideo | VideoUrl:
    if isinstance(video, dict) and len(video) == 1:
        ((kind, value),) = video.items()
        if kind == "path":
            return folder / _text(value, kind)
        if kind in {"id", "url"}:
            return StoredVideo(_text(value, kind)) if kind == "id" else VideoUrl(_text(value, kind))
    raise InvalidOptions(f"video is {str(video)[:100]!r}; one of id, url and path is needed")


def _asked(document: dict[str, Any], ask: Ask) -> Ask:
    """What a line says goes before what the command line says."""
    options = document.pop("options", {})
    if not isinstance(options, dict):
        raise InvalidOptions(f"options are {str(options)[:100]!r}; an object is needed")
    wanted = {**options, **document}
    if unknown := set(wanted) - OPTIONS - OTHERS:
        raise InvalidOptions(f"unknown fields: {', '.join(sorted(unknown))}; there are: {', '.join(OPTIONS | OTHERS)}")
    values: dict[str, Any] = {name: _value(name, value) for name, value in wanted.items()}
    chosen = {name: value for name, value in values.items() if name in OPTIONS}
    others = {name: value for name, value in values.items() if name in OTHERS}
    return replace(ask, options=replace(ask.options, **chosen), **others)


def _value(name: str, value: Any) -> Any:
    """The service knows what makes sense; here it only has to be of a kind that can be sent."""
    if name in LISTS:
        if not isinstance(value, list):
            raise InvalidOptions(f"{name} is {str(value)[:100]!r}; a list is needed")
        return tuple(_text(one, name) for one in value)
    if not isinstance(value, str | int | float):
        raise InvalidOptions(f"{name} is {str(value)[:100]!r}; a number or a text is needed")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidOptions(f"{name} is {str(value)[:100]!r}; a text is needed")
    return value
