"""A file in; requests that upload it in parts (tus 1.0.0), and go on behind the last one after any break, out."""

from __future__ import annotations

import base64
from dataclasses import replace
from urllib.parse import quote

import httpx

from service.client.calls import NOT_FOUND, Calls, Request, Steps
from service.client.documents import json_of
from service.client.uploads import StoredVideo, Upload
from service.errors import OffsetMismatch, ServerUnreachable, UnexpectedAnswer, UploadNotFound

PART_BYTES = 64 * 1024 * 1024
# The last part is answered once the video was put together and looked at.
LAST_SILENCE_S = 900.0
TUS = {"Tus-Resumable": "1.0.0"}


def upload(calls: Calls, whole: Upload) -> Steps[StoredVideo]:
    """Gives up where nothing came through between two breaks."""
    path = yield from _begin(calls, whole)
    offset, broke_at = 0, -1
    while True:
        try:
            answer = yield from calls.exchange(_part(path, whole, offset))
        except (OffsetMismatch, ServerUnreachable):
            answer = yield from _stand(calls, path)
            if (reached := _offset(answer)) == broke_at:
                raise
            broke_at = reached
        if video_id := answer.headers.get("upload-video-id"):
            return StoredVideo(video_id)
        offset = _offset(answer)


def _begin(calls: Calls, whole: Upload) -> Steps[str]:
    name = base64.b64encode(whole.name.encode("utf-8", "replace")).decode()
    headers = {**TUS, "Upload-Length": str(whole.size_bytes), "Upload-Metadata": f"filename {name}"}
    created = json_of((yield from calls.exchange(Request("POST", "/v1/videos", headers=headers))))
    try:
        return f"/v1/videos/uploads/{quote(created['id'], safe='')}"
    except (KeyError, TypeError):
        raise UnexpectedAnswer(f"{calls.base_url}: no upload: {str(created)[:200]!r}") from None


def _part(path: str, whole: Upload, offset: int) -> Request:
    part = replace(whole, size_bytes=min(PART_BYTES, (whole.size_bytes or 0) - offset), start=offset)
    headers = {
        **TUS,
        "Upload-Offset": str(offset),
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(part.size_bytes),
    }
    return Request("PATCH", path, headers=headers, upload=part, silence_s=LAST_SILENCE_S)


def _stand(calls: Calls, path: str) -> Steps[httpx.Response]:
    try:
        return (yield from calls.exchange(Request("HEAD", path, headers=TUS, silence_s=LAST_SILENCE_S)))
    except UnexpectedAnswer as error:  # an answer to HEAD has no body to say more
        if error.status != NOT_FOUND:
            raise
        raise UploadNotFound("the upload is no longer there: it was ended, or its video was refused") from None


def _offset(answer: httpx.Response) -> int:
    try:
        return int(answer.headers["upload-offset"])
    except (KeyError, ValueError):
        raise UnexpectedAnswer(f"{answer.url} does not say where the upload stands") from None
