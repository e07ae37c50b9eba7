"""Feature files in, `FeatureSequence`s out; and back: one video's features in, a deterministic .npz out.

A folder of ours holds `<video>.npz` for every video and `features.json`, which says how all of them were made. Features
of others (.npy, .npz, .h5) say nothing of the kind, so a `FeatureRule` does.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidOptions
from service.pipeline.features import FeatureSequence
from service.pipeline.snippets import ClipRule, SnippetGrid
from service.runtime.session import Array, to_numpy
from training.feature_arrays import lacking, read_npz, read_one
from training.feature_names import find
from training.feature_settings import (
    Dtype,
    FeatureRule,
    FeatureSettings,
    differences,
    parse,
    positive,
    refuse_mismatch,
)

__all__ = [
    "FeatureRule",
    "FeatureSettings",
    "StoredFeatures",
    "differences",
    "find",
    "is_ours",
    "lacking",
    "load",
    "read",
    "read_settings",
    "refuse_mismatch",
    "remove_partials",
    "write",
    "write_atomically",
    "write_settings",
]

SETTINGS_FILE = "features.json"
PART = ".part"
MOST_FRAMES = 20_000_000  # nine days at 25 a second
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip can say: equal features are equal files


@dataclass(frozen=True)
class StoredFeatures:
    """What a file of ours holds; `source_bytes` is the size of the video that it was made of."""

    values: Array
    scores: Array | None
    frame_times_s: NDArray[np.float64]
    end_s: float
    source_bytes: int


def write_settings(folder: Path, settings: FeatureSettings) -> None:
    write_atomically(folder / SETTINGS_FILE, settings.to_json().encode())


def is_ours(source: Path) -> bool:
    """Whether its features say themselves how they were made."""
    return (source / SETTINGS_FILE).is_file()


def read_settings(folder: Path) -> FeatureSettings:
    """Of a folder of feature files; refused where it is none."""
    path = folder / SETTINGS_FILE
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise InvalidOptions(
            f"{folder}: holds no {SETTINGS_FILE}, so it is no folder that `tal extract` made"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOptions(f"{path}: cannot be read: {error}") from None


def write(path: Path, sequence: FeatureSequence, settings: FeatureSettings, *, source_bytes: int) -> None:
    """Equal features give equal bytes, and a file is there whole or not at all."""
    if sequence.values is None:
        raise InvalidOptions(f"{path.name}: the streams give no features to store")
    arrays: dict[str, Array] = {
        "values": _narrow(to_numpy(sequence.values), settings.dtype, path.name),
        "frame_times_s": np.asarray(sequence.grid.frame_times_s, np.float64),
        "end_s": np.array(sequence.grid.end_s, np.float64),
        "source_bytes": np.array(source_bytes, np.int64),
        "settings": np.frombuffer(settings.digest, np.uint8),
    }
    if settings.scores is not None and sequence.scores is not None:
        arrays["scores"] = np.asarray(sequence.scores, np.float32)
    with _partial(path) as partial:
        _write_zip(partial, arrays)


def read(path: Path, settings: FeatureSettings) -> StoredFeatures:
    """A file of ours, held against the settings of its folder."""
    arrays = read_npz(path)
    missing = {"values", "frame_times_s", "end_s", "source_bytes", "settings"} - set(arrays)
    if missing:
        raise InvalidOptions(f"{path}: lacks {', '.join(sorted(missing))}: not a file that `tal extract` made")
    if arrays["settings"].tobytes() != settings.digest:
        raise InvalidOptions(f"{path}: was made with other settings than {SETTINGS_FILE} says")
    values = _checked_values(arrays["values"], settings.channels, path)
    _check_times(path, len(values), arrays, settings)
    return StoredFeatures(
        values,
        arrays.get("scores"),
        arrays["frame_times_s"],
        float(arrays["end_s"]),
        int(arrays["source_bytes"]),
    )


def load(
    path: Path,
    how: FeatureSettings | FeatureRule,
    *,
    video: str | None = None,
    duration_s: float | None = None,
    fps: float | None = None,
) -> FeatureSequence:
    """One video's features on their grid, float32.

    A file of ours knows its times. For features of others `fps` is the video's own rate, needed where the rule has
    none, and `duration_s` its length, taken from the number of rows where it is not given; `video` is the name under
    which a file of many videos holds this one, by default the file's own.
    """
    if isinstance(how, FeatureRule):
        return _load_foreign(path, how, video or path.stem, duration_s, fps)
    stored = read(path, how)
    sampling_s = None if how.grid.fps == "native" else 1 / how.grid.fps
    grid = SnippetGrid(
        stored.frame_times_s, stored.end_s, float(how.grid.stride_frames), how.grid.offset_frames, sampling_s
    )
    return FeatureSequence(stored.values, stored.scores, grid, how.clip_span_frames)


def write_atomically(path: Path, content: bytes) -> None:
    with _partial(path) as partial:
        partial.write_bytes(content)


def remove_partials(folder: Path) -> None:
    """What killed runs left behind."""
    for path in folder.glob(f".*{PART}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place, synced, unless writing it fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_zip(path: Path, arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", FIXED_TIME)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)


def _narrow(values: Array, dtype: Dtype, name: str) -> Array:
    if not np.isfinite(values).all():
        raise InvalidOptions(f"{name}: the backbone gave features that are not finite numbers (NaN or infinity)")
    largest = float(np.abs(values).max(initial=0))
    if dtype == "float16" and largest > float(np.finfo(np.float16).max):
        raise InvalidOptions(f"{name}: features up to {largest:g} do not fit float16, which ends at 65504; use float32")
    return values.astype(dtype)


def _check_times(path: Path, num_rows: int, arrays: Mapping[str, Array], settings: FeatureSettings) -> None:
    times_s, end_s, scores = arrays["frame_times_s"], arrays["end_s"], arrays.get("scores")
    if times_s.ndim != 1 or times_s.dtype != np.float64 or not np.isfinite(times_s).all() or not np.isfinite(end_s):
        raise InvalidOptions(
            f"{path}: frame_times_s and end_s are finite seconds; found {times_s.dtype} {times_s.shape}"
        )
    grid = settings.grid
    rule = ClipRule(1, 1, grid.stride_frames, settings.clip_span_frames, grid.tail == "pad")
    if num_rows != rule.count(len(times_s)):
        raise InvalidOptions(
            f"{path}: {num_rows} rows of features; {len(times_s)} frames give {rule.count(len(times_s))}"
        )
    if (scores is None) != (settings.scores is None) or (scores is not None and len(scores) != num_rows):
        raise InvalidOptions(f"{path}: its class scores are not those that {SETTINGS_FILE} speaks of")


def _load_foreign(
    path: Path, rule: FeatureRule, video: str, duration_s: float | None, fps: float | None
) -> FeatureSequence:
    raw = read_one(path, rule.array, video)
    values = _checked_values(raw.T if rule.layout == "ct" and raw.ndim == 2 else raw, rule.channels, path)
    return FeatureSequence(values, None, _foreign_grid(path, rule, len(values), duration_s, fps), rule.clip_frames)


def _foreign_grid(
    path: Path, rule: FeatureRule, num_rows: int, duration_s: float | None, fps: float | None
) -> SnippetGrid:
    rate = rule.fps or fps
    if rate is None or not positive(rate):
        raise InvalidOptions(f"{path}: the frame rate is {rate}; give fps, of the features or of the video, above 0")
    covered_s = ((num_rows - 1) * rule.stride_frames + rule.clip_frames) / rate
    length_s = covered_s if duration_s is None else duration_s
    if not positive(length_s):
        raise InvalidOptions(f"{path}: duration_s is {duration_s}; a number above 0 is needed")
    slack_s = (rule.clip_frames + rule.stride_frames) / rate
    if covered_s > 1.5 * length_s + slack_s or length_s > 1.5 * covered_s + slack_s:
        raise InvalidOptions(
            f"{path}: {num_rows} rows, one every {rule.stride_frames:g} frames at {rate:g} a second, cover "
            f"{covered_s:.1f} s; the video lasts {length_s:.1f} s: stride_frames, fps or the duration is wrong"
        )
    num_frames = max(1, round(length_s * rate))
    if num_frames > MOST_FRAMES:
        raise InvalidOptions(
            f"{path}: {num_rows} rows, one every {rule.stride_frames:g} frames with clips of {rule.clip_frames}, are a "
            f"video of {num_frames:.3g} frames; at most {MOST_FRAMES:g} are accepted: stride_frames or clip_frames is "
            "wrong"
        )
    sampling_s = None if rule.fps is None else 1 / rule.fps
    return SnippetGrid(np.arange(num_frames) / rate, length_s, rule.stride_frames, rule.offset_frames, sampling_s)


def _checked_values(values: Array, channels: int | None, path: Path) -> Array:
    if values.ndim != 2 or not values.size:
        raise InvalidOptions(f"{path}: features of shape {values.shape}; (T, C) is needed, with at least one of each")
    if not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
        raise InvalidOptions(f"{path}: features are {values.dtype}; numbers are needed")
    if channels is not None and values.shape[1] != channels:
        raise InvalidOptions(f"{path}: {values.shape[1]} channels in features {values.shape}; {channels} are needed")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(values, np.float32)
    bad = int(np.count_nonzero(~np.isfinite(single)))
    if bad:
        raise InvalidOptions(f"{path}: {bad} of {single.size} values are not finite numbers (NaN or infinity)")
    return single
