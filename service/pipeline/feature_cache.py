"""Features of a video in, bytes that another detector on the same backbone can start from out; and back.

A blob is a digest and a NumPy archive without pickles. One that is damaged, or of another format, counts as absent.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from service.errors import TalError, first_line
from service.localization import DetectOptions, VideoInfo
from service.pipeline.features import FeatureSequence
from service.pipeline.snippets import SnippetGrid
from service.runtime.loaded_model import LoadedModel
from service.runtime.session import Array, to_numpy

FORMAT = 1
_MARK = b"TAL features\n"
_DIGEST_BYTES = 32


class FeatureFiles(Protocol):
    """Where blobs are kept, for as long as the owner likes."""

    def load(self, key: str) -> bytes | None: ...

    def save(self, key: str, data: bytes) -> None: ...


@dataclass(frozen=True)
class FeatureCache:
    """The place, and what names the video's bytes there (their sha256, say)."""

    files: FeatureFiles
    video_key: str

    def load(self, key: str) -> VideoFeatures | None:
        try:
            data = self.files.load(key)
        except (TalError, OSError):
            return None
        return None if data is None else unpack(data)

    def save(self, key: str, found: VideoFeatures) -> str:
        """What became of it: an answer is not lost because its features found no room."""
        try:
            self.files.save(key, pack(found))
        except (TalError, OSError) as error:
            return f"not kept: {first_line(error)}"
        return "kept"


@dataclass(frozen=True)
class VideoFeatures:
    """All that the stations after the backbone need to know of a video."""

    sequence: FeatureSequence
    info: VideoInfo
    decoder: str
    warnings: tuple[str, ...] = ()


def make_key(video_key: str, model: LoadedModel, options: DetectOptions, decoder: str) -> str:
    """Everything that the features depend on, and nothing of the detector; a sha256 in hexadecimal."""
    manifest = model.manifest
    streams = [
        {
            **loaded.stream.model_dump(mode="json", exclude={"name", "graph"}),
            "sha256": manifest.files[loaded.stream.graph].sha256,
            "provider": loaded.session.provider,
        }
        for loaded in model.streams
    ]
    parts = {
        "format": FORMAT,
        "video": video_key,
        "streams": streams,
        "grid": manifest.grid.model_dump(mode="json"),
        "part_s": [options.start_s or None, options.end_s],
        "decoder": decoder,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pack(found: VideoFeatures) -> bytes:
    sequence = found.sequence
    arrays: dict[str, Array] = {"frame_times_s": sequence.grid.frame_times_s}
    if sequence.values is not None:
        arrays["values"] = to_numpy(sequence.values)
    if sequence.scores is not None:
        arrays["scores"] = sequence.scores
    grid = {name: getattr(sequence.grid, name) for name in ("end_s", "stride_frames", "offset_frames", "sampling_s")}
    about = {
        "grid": grid,
        "clip_span_frames": sequence.clip_span_frames,
        "info": asdict(found.info),
        "decoder": found.decoder,
        "warnings": found.warnings,
    }
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    body = file.getvalue()
    return _MARK + hashlib.sha256(body).digest() + body


def unpack(data: bytes) -> VideoFeatures | None:
    body_at = len(_MARK) + _DIGEST_BYTES
    body = data[body_at:]
    if not data.startswith(_MARK) or hashlib.sha256(body).digest() != data[len(_MARK) : body_at]:
        return None
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return _join(dict(arrays))
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile):
        return None  # whole, but written by another release


def _join(arrays: dict[str, Array]) -> VideoFeatures:
    about: dict[str, Any] = json.loads(arrays["about"].tobytes())
    grid = SnippetGrid(arrays["frame_times_s"], **about["grid"])
    sequence = FeatureSequence(arrays.get("values"), arrays.get("scores"), grid, about["clip_span_frames"])
    return VideoFeatures(sequence, VideoInfo(**about["info"]), about["decoder"], tuple(about["warnings"]))
