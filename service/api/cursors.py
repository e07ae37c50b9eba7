"""The id of a page's last job in, an opaque cursor out; and back, checked."""

from __future__ import annotations

import base64
import binascii
import re

from service.errors import MalformedRequest

JOB_ID = re.compile(r"[0-9a-f]{32}")


def seal(job_id: str) -> str:
    return base64.urlsafe_b64encode(b"1" + bytes.fromhex(job_id)).decode().rstrip("=")


def open_cursor(cursor: str) -> str:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 17 or raw[:1] != b"1":
        raise MalformedRequest(f"cursor {cursor[:100]!r} is none that this service gave")
    return raw[1:].hex()
