"""The id of a page's last job or record in, an opaque cursor out; and back, checked."""

from __future__ import annotations

import base64
import binascii
import re

from service.errors import MalformedRequest

JOB_ID = re.compile(r"[0-9a-f]{32}")
RECORD = re.compile(rb"2[!-~]{1,200}")


def seal(job_id: str) -> str:
    return _sealed(b"1" + bytes.fromhex(job_id))


def open_cursor(cursor: str) -> str:
    raw = _opened(cursor)
    if len(raw) != 17 or raw[:1] != b"1":
        raise MalformedRequest(f"cursor {cursor[:100]!r} is none that this service gave")
    return raw[1:].hex()


def seal_record(record_id: str) -> str:
    return _sealed(b"2" + record_id.encode())


def open_record(cursor: str) -> str:
    raw = _opened(cursor)
    if not RECORD.fullmatch(raw):
        raise MalformedRequest(f"cursor {cursor[:100]!r} is none that this service gave")
    return raw[1:].decode()


def _sealed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _opened(cursor: str) -> bytes:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
