"""Secrets and a message in; the headers by which its receiver knows who sent it, as Standard Webhooks has them, out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from service.errors import InvalidOptions

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64


class Signer:
    """Every secret signs, so that a receiver may know the old or the new one while they change."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._keys = tuple(_key(secret, number) for number, secret in enumerate(secrets, 1))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def headers(self, message_id: str, at_s: float, body: bytes) -> dict[str, str]:
        timestamp = str(int(at_s))
        signed = b".".join((message_id.encode(), timestamp.encode(), body))
        digests = (hmac.digest(key, signed, hashlib.sha256) for key in self._keys)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
        }


def _key(secret: str, number: int) -> bytes:
    """The secret itself is in no message, since messages end in logs."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise InvalidOptions(
            f"webhook secret {number} is not {PREFIX} and the base64 of {LEAST_BYTES} to {MOST_BYTES} bytes"
        )
    return key
