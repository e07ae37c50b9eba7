"""Headers of tus 1.0.0 (resumable uploads) in, read and checked; those of its answers out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from fastapi import Request

from service.api.uploads import clean_name, length_of
from service.errors import ChecksumMismatch, MalformedRequest, ProtocolMismatch, UnsupportedMedia, VideoTooLarge
from service.jobs.partial_uploads import PartialUpload

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum"
ALGORITHMS = ("sha1", "sha256", "md5")
CONTENT_TYPE = "application/offset+octet-stream"
METADATA_CHARACTERS = 4096
NUMBER = re.compile("[0-9]{1,18}")
METADATA_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
# What a page has to be allowed to read.
ANSWERED = (
    *("Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm", "Upload-Offset"),
    *("Upload-Length", "Upload-Metadata", "Upload-Expires", "Upload-Video-Id"),
)
UNOFFERED = ("Upload-Defer-Length", "Upload-Concat")


@dataclass(frozen=True)
class Checksum:
    algorithm: str
    digest: bytes

    def hasher(self) -> Any:
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def check(self, hasher: Any) -> None:
        if hasher.digest() != self.digest:
            raise ChecksumMismatch(
                f"the part's {self.algorithm} is not the one that Upload-Checksum names; send it again"
            )


def is_resumable(request: Request) -> bool:
    return "tus-resumable" in request.headers


def check_version(request: Request) -> None:
    if (given := request.headers.get("tus-resumable")) != VERSION:
        raise ProtocolMismatch(f"Tus-Resumable {(given or '')[:50]!r} is not spoken; {VERSION} is")


def read_length(request: Request, limit_bytes: int) -> int:
    for name in UNOFFERED:
        if name in request.headers:
            raise MalformedRequest(f"{name} is not offered; the extensions are {EXTENSIONS}")
    length = _number(request, "Upload-Length")
    if length == 0:
        raise MalformedRequest("Upload-Length is 0; a video is needed")
    if length > limit_bytes:
        raise VideoTooLarge(f"Upload-Length is {length}; a video has at most {limit_bytes} bytes")
    return length


def read_offset(request: Request) -> int:
    return _number(request, "Upload-Offset")


def check_part(request: Request) -> None:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != CONTENT_TYPE:
        raise UnsupportedMedia(f"a part of type {kind[:100]!r}; {CONTENT_TYPE} is needed")


def has_part(request: Request) -> bool:
    """A creation may bring the first part with it."""
    return length_of(request) not in {None, 0} or "transfer-encoding" in request.headers


def read_checksum(request: Request) -> Checksum | None:
    given = request.headers.get("upload-checksum")
    if given is None:
        return None
    algorithm, _, digest = given.partition(" ")
    if algorithm not in ALGORITHMS:
        raise MalformedRequest(f"checksums by {algorithm[:50]!r} are not taken; {', '.join(ALGORITHMS)} are")
    checksum = Checksum(algorithm, _decoded("Upload-Checksum", digest))
    if len(checksum.digest) != checksum.hasher().digest_size:
        raise MalformedRequest(f"Upload-Checksum {digest[:100]!r} is no {algorithm}")
    return checksum


def read_metadata(request: Request) -> tuple[str, str]:
    """As given, and the file's name in it."""
    given = request.headers.get("upload-metadata", "")
    if len(given) > METADATA_CHARACTERS:
        raise MalformedRequest(f"Upload-Metadata has {len(given)} characters; at most {METADATA_CHARACTERS} are taken")
    values: dict[str, bytes] = {}
    for pair in filter(None, given.split(",")):
        key, _, value = pair.strip().partition(" ")
        if not METADATA_KEY.fullmatch(key) or key in values:
            raise MalformedRequest(f"Upload-Metadata: {pair[:50]!r} is no pair of a new key and base64")
        values[key] = _decoded("Upload-Metadata", value.strip())
    name = values.get("filename") or values.get("name") or b""
    return given, clean_name(name.decode("utf-8", "replace") or "video")


def method_of(request: Request) -> str:
    """What is meant by a POST, where something between lets no other method through."""
    return request.headers.get("x-http-method-override", request.method).strip().upper()


def options(limit_bytes: int) -> dict[str, str]:
    return {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(limit_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }


def progress(upload: PartialUpload) -> dict[str, str]:
    """Where the upload stands, and once it is done, the video that it became."""
    video = {"Upload-Video-Id": upload.video} if upload.done and upload.video else {}
    return {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(upload.offset_bytes),
        "Upload-Expires": formatdate(upload.expires_at_s, usegmt=True),
        **video,
    }


def _number(request: Request, name: str) -> int:
    given = request.headers.get(name)
    if given is None or not NUMBER.fullmatch(given):
        raise MalformedRequest(f"{name} {(given or '')[:50]!r} is no number of bytes")
    return int(given)


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRequest(f"{name}: {text[:50]!r} is no base64") from None
