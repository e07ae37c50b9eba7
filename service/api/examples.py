"""Documents as they look in practice, for the OpenAPI document; the tests check that they are what they show."""

from __future__ import annotations

from typing import Any

VIDEO_ID = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
JOB_ID = "0199c4a0f6b27d3e9c41a85d20f7b6e3"

UPLOAD_ID = "3f2c9d0e5b7a41c88e6f1d2a90b4c7e5"
VIDEO: dict[str, Any] = {
    "id": VIDEO_ID,
    "name": "clip.mp4",
    "size_bytes": 1834021,
    "duration_s": 14.8,
    "expires_at_s": 1767086400.0,
}
UPLOAD: dict[str, Any] = {
    "id": UPLOAD_ID,
    "state": "receiving",
    "name": "clip.mp4",
    "offset_bytes": 1048576,
    "length_bytes": 1834021,
    "expires_at_s": 1767086400.0,
    "video_id": None,
}

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
    "webhook": None,
}

MESSAGE: dict[str, Any] = {
    "id": f"msg_{JOB_ID}",
    "job_id": JOB_ID,
    "url": "https://example.org/hooks/tal",
    "state": "pending",
    "created_at_s": 1767000003.2,
    "expires_at_s": 1767604803.3,
    "next_attempt_at_s": 1767000006.1,
    "attempts": [{"at_s": 1767000003.3, "status": 500, "error": None}],
    "event": {
        "type": "job.succeeded",
        "timestamp": "2025-12-29T09:20:03.000Z",
        "data": {
            **JOB,
            "state": "succeeded",
            "done": True,
            "updated_at_s": 1767000003.0,
            "finished_at_s": 1767000003.0,
            "progress": None,
            "webhook": "https://example.org/hooks/tal",
            "result_path": f"/v1/jobs/{JOB_ID}/result",
        },
    },
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
