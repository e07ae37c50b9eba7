"""Paths in; JSON without repeated keys, rows of CSV and lines of text with the places where they stand out."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from service.errors import InvalidOptions
from training.datasets.dataset import Draft, refusal


def load_json(path: Path) -> Any:
    """The content of a file in which no mapping names a key twice; Python would keep the last one silently."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return found

    try:
        content = json.loads(read_text(path), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting are refused so
        raise InvalidOptions(f"{path} is not JSON: {error}") from error
    if repeated:
        raise refusal([f"key {key!r} is there more than once" for key in repeated], str(path))
    return content


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidOptions(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidOptions(f"{path} is not UTF-8 text: {error}") from error


def rows(path: Path, columns: Sequence[str], draft: Draft) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE, line N", row) of every row that has all the columns; others are reported."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        names = reader.fieldnames or ()
    except csv.Error as error:
        draft.report(path.name, f"the first line is not CSV: {error}")
        return
    missing = [column for column in columns if column not in names]
    if missing:
        draft.report(path.name, f"columns {', '.join(missing)} are missing; it has {', '.join(names)}")
        return
    while True:
        place = f"{path.name}, line {reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            draft.report(place, f"the row is not CSV: {error}")
            continue
        # A row may span lines: the last of them is named, as editors show it.
        place = f"{path.name}, line {reader.line_num}"
        short = [column for column in columns if row[column] is None]
        if short:
            draft.report(place, f"the row ends before column {short[0]!r}")
        else:
            yield place, row


def lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """("FILE, line N", words) of every line that is not blank."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield f"{path.name}, line {number}", line.split()


def class_list(path: Path, draft: Draft) -> dict[str, str]:
    """{number or code: name} from lines like `7 BaseballPitch` or `c000 Holding some clothes`."""
    names: dict[str, str] = {}
    for place, words in lines(path):
        if len(words) < 2:
            draft.report(place, f"{' '.join(words)!r} is not a class; its number or code and its name are needed")
        elif words[0] in names:
            draft.report(place, f"class {words[0]!r} is there already")
        else:
            names[words[0]] = " ".join(words[1:])
    return names


def first_of(folder: Path, *names: str) -> Path | None:
    """The first of these files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent
