"""A line from a model process in; the message that it holds out, or ValueError where it is none of ours.

A process that was hit by a defect of a library can say anything, and its supervisor must outlive that.
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]

Fields = dict[str, type | tuple[type, ...]]

# Of seconds, frames, bytes: more of anything is a defect, and no counter could add it up.
_TOO_MUCH = 1e15
_NUMBER = (int, float)
_JOB: Fields = {"job": str}
_TOLD: Fields = {"code": str, "message": str, "retryable": bool, "model_fault": bool}
_KINDS: dict[str, Fields] = {
    "loading": {"model": str},
    "ready": {"models": dict},
    "refused": _TOLD,
    "progress": {**_JOB, "stage": str, "done": _NUMBER, "total": _NUMBER},
    "canceled": _JOB,
    "failed": {**_JOB, **_TOLD, "gpu_suspect": bool},
    "done": {
        **_JOB,
        "text": str,
        "stages_s": dict,
        "video_s": _NUMBER,
        "frames": int,
        "decoder": str,
        "segments": int,
        "features": (str, type(None)),
        "gpu_oom": bool,
        "batches": dict,
    },
}
_ABOUT_A_MODEL: Fields = {"version": str, "sha256": str, "format": str, "provider": (str, type(None))}


def read(line: bytes) -> Message:
    message: Message = json.loads(line)
    kind = message.get("kind") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"a message of kind {kind!r}")
    _check(message, _KINDS[kind])
    if kind == "ready":
        if not message["models"]:
            raise ValueError("ready with no model")
        _check(message["models"], dict.fromkeys(message["models"], dict))
        for about in message["models"].values():
            _check(about, _ABOUT_A_MODEL)
    if kind == "done":
        _check(message["stages_s"], dict.fromkeys(message["stages_s"], _NUMBER))
    return message


def _check(fields: Any, wanted: Fields) -> None:
    for name, kind in wanted.items():
        name.encode()
        value = fields.get(name) if isinstance(fields, dict) else None
        if not isinstance(value, kind) or not _is_sane(value, kind):
            raise ValueError(f"{name} is {str(value)[:100]!r}")


def _is_sane(value: Any, kind: type | tuple[type, ...]) -> bool:
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is text that nothing can store
    if isinstance(value, bool):
        return kind is bool
    return not isinstance(value, int | float) or 0 <= value < _TOO_MUCH
