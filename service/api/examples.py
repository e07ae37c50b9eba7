"""Documents as they look in practice, for the OpenAPI document; the tests check that they are what they show."""

from __future__ import annotations

from typing import Any

VIDEO_ID = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
JOB_ID = "0199c4a0f6b27d3e9c41a85d20f7b6e3"

BODY: dict[str, Any] = {"video": {"id": VIDEO_ID}, "model": "marionette", "options": {"top_k": 20}}

JOB: dict[str, Any] = {
    "id": JOB_ID,
    "state": "running",
    "done": False,
    "model": "marionette",
    "video": {"id": VIDEO_ID, "name": "clip.mp4", "size_bytes": 1834021, "duration_s": 14.8},
    "options": {"top_k": 20},
    "priority": "normal",
    "tags": ["camera:7"],
    "timeout_s": 3600.0,
    "deadline_at_s": None,
    "retry_of": None,
    "created_at_s": 1767000000.0,
    "updated_at_s": 1767000001.5,
    "started_at_s": 1767000000.2,
    "finished_at_s": None,
    "attempts": 1,
    "progress": {"stage": "features", "done": 6.4, "total": 14.8},
    "failure": None,
    "dead_letter": False,
}

RESULT: dict[str, Any] = {
    "id": JOB_ID,
    "video": {
        "id": VIDEO_ID,
        "name": "clip.mp4",
        "duration_s": 14.8,
        "num_frames": 370,
        "fps": 25.0,
        "is_vfr": False,
        "width_px": 320,
        "height_px": 240,
        "rotation_deg": 0,
        "codec": "h264",
        "container": "mp4",
        "start_s": 0.0,
    },
    "model": {"name": "marionette", "version": "1.0.0", "sha256": VIDEO_ID, "provider": "CPU"},
    "segments": [{"start_s": 2.14, "end_s": 5.9, "label": "wave", "score": 0.93}],
    "timings": {"decode_s": 0.31, "total_s": 1.62},
    "warnings": [],
}

MODEL: dict[str, Any] = {
    "name": "marionette",
    "version": "1.0.0",
    "sha256": VIDEO_ID,
    "licence": "Apache-2.0",
    "labels": ["bow", "clap", "wave"],
    "ready": True,
    "default": True,
}

READINESS: dict[str, Any] = {
    "status": "unready",
    "checks": {"accepting": "ok", "queue": "ok", "store": "ok", "worker": "no ready worker serves 'marionette'"},
}

EVENT = {
    "id": "7",
    "event": "progress",
    "data": '{"at_s": 1767000000.9, "stage": "features", "done": 6.4, "total": 14.8}',
}
