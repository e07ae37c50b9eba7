"""A run's folder in; held by one process, and by one plan on the same data, out."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from service.errors import InvalidOptions
from training.evaluation.annotations import GroundTruth
from training.feature_files import write_atomically

PLAN, INPUTS = "plan.json", "inputs.json"
FREE = frozenset({"training.keep", "training.checkpoint_every_steps"})  # they change nothing that a run ends with


@contextlib.contextmanager
def sole_writer(folder: Path, doing: str) -> Iterator[None]:
    """Holds a lock on the folder itself, which the system gives back however this process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InvalidOptions(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        _lock(descriptor, folder, doing)
        yield
    finally:
        os.close(descriptor)


def claim(folder: Path, plan: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """From its first weights on a folder belongs to one plan, and to the data that the run began on: `inputs`, digests
    by what they are of."""
    if any(folder.glob("*.safetensors")):
        _refuse_another(folder, plan, inputs)
    write_json(folder / PLAN, plan)
    write_json(folder / INPUTS, inputs)


def _refuse_another(folder: Path, plan: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    apart = _apart(_flat(_known(folder / PLAN)), _flat(plan)) if (folder / PLAN).exists() else []
    if apart:
        raise InvalidOptions(f"{folder}: began with another plan ({'; '.join(apart)}); --fresh starts anew")
    found = _known(folder / INPUTS) if (folder / INPUTS).exists() else {}
    changed = sorted(key for key in found.keys() & inputs.keys() if found[key] != inputs[key])
    if changed:
        raise InvalidOptions(f"{folder}: began on other data ({', '.join(changed)} changed since); --fresh starts anew")


def digest(*values: Any) -> str:
    """Of numbers, texts, lists and mappings."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def truth_digest(*truths: GroundTruth) -> str:
    """Of the videos, labels and actions that were read, however their files are laid out."""
    return digest(*([truth.videos, truth.labels, *(column.tolist() for column in _columns(truth))] for truth in truths))


def _columns(truth: GroundTruth) -> tuple[NDArray[Any], ...]:
    return truth.durations_s, truth.video_indices, truth.segments_s, truth.label_indices


def write_json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def _lock(descriptor: int, folder: Path, doing: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidOptions(f"{folder}: another run is {doing} here; wait until it has ended") from None


def _known(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOptions(f"{path}: cannot be read: {error}; --fresh starts anew") from None
    if not isinstance(found, dict):
        raise InvalidOptions(f"{path}: holds {type(found).__name__}, no mapping; --fresh starts anew")
    return found


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"training.epochs": 3, …}; what is null counts as left out."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return {key: value for key, value in flat.items() if value is not None}


def _apart(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    keys = sorted((found.keys() | wanted.keys()) - FREE)
    return [
        f"{key} was {json.dumps(found.get(key))}, is {json.dumps(wanted.get(key))}"
        for key in keys
        if found.get(key) != wanted.get(key)
    ]
