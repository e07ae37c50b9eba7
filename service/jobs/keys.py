"""API keys, which lie on a shelf of records as digests alone, in; who is behind a key that somebody gives, out."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from service.errors import InvalidOptions, QueueUnavailable
from service.jobs.job import known_fields
from service.jobs.records import Record, Records

KIND = "key"
Scope = Literal["submit", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("submit", "read", "admin")
FORM = re.compile(r"tal_([0-9a-f]{10})_[0-9a-f]{64}")
ID_BYTES, SECRET_BYTES = 5, 32
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
AT_ONCE, WRITES = 1000, 10
# Compared with where there is no key of that id, so that both take the same way.
NOBODY = "0" * 64


@dataclass(frozen=True)
class Allowance:
    """What a key may: `requests_per_s`, after a `burst` of so many at once; None sets no limit."""

    requests_per_s: float | None = None
    burst: int = 1
    max_queued_video_s: float | None = None


@dataclass(frozen=True)
class ApiKey:
    """`hash` is the sha256 of the whole key, which nobody keeps but its holder."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    hash: str = field(repr=False)
    created_at_s: float
    expires_at_s: float | None = None
    revoked: bool = False
    allowance: Allowance = Allowance()

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    def may(self, scope: Scope) -> bool:
        return self.is_admin or scope in self.scopes

    def state(self, now_s: float) -> Literal["active", "expired", "revoked"]:
        if self.revoked:
            return "revoked"
        return "active" if self.expires_at_s is None or now_s < self.expires_at_s else "expired"


class KeyShelf:
    """All keys that were ever made. None of them is removed, so that a service that has keys never becomes open."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def create(
        self, name: str, scopes: tuple[Scope, ...], allowance: Allowance, expires_at_s: float | None
    ) -> tuple[ApiKey, str]:
        """The key, and the text that is told this once."""
        if not NAME.fullmatch(name):
            raise InvalidOptions(f"name {name[:100]!r}: 1 to 100 printable characters are needed")
        key_id = secrets.token_hex(ID_BYTES)
        text = f"tal_{key_id}_{secrets.token_hex(SECRET_BYTES)}"
        key = ApiKey(key_id, name, scopes, digest(text), time.time(), expires_at_s, allowance=allowance)
        if self._records.create(Record(KIND, key_id, asdict(key))) is None:
            raise QueueUnavailable(f"a key of the id {key_id} is there already; ask again")
        return key, text

    def all(self) -> list[ApiKey]:
        found: list[Record] = []
        while page := self._records.page(KIND, beyond=found[-1].id if found else None, limit=AT_ONCE):
            found += page
        return [_read(record.body) for record in found]

    def find(self, key_id: str) -> ApiKey:
        return _read(self._record(key_id).body)

    def revoke(self, key_id: str) -> ApiKey:
        """Twice is no error."""
        for _ in range(WRITES):
            record = self._record(key_id)
            revoked = replace(_read(record.body), revoked=True)
            if self._records.replace(replace(record, body=asdict(revoked))):
                return revoked
        raise QueueUnavailable(f"key {key_id} keeps changing; ask again")

    def _record(self, key_id: str) -> Record:
        if (record := self._records.get(KIND, key_id)) is None:
            raise InvalidOptions(f"no key {key_id[:50]!r}; `tal keys list` tells all")
        return record


class KeyRing:
    """All keys as they were when they were last read, in memory; `clock` tells how long that is ago."""

    def __init__(self, records: Records, clock: Callable[[], float] = time.monotonic) -> None:
        self._shelf, self._clock = KeyShelf(records), clock
        self._keys: dict[str, ApiKey] = {}
        self._read_at_s: float | None = None
        self._needed = False

    @property
    def needed(self) -> bool:
        """Whether there was ever a key: a queue that lost its records must not open what it kept shut."""
        return self._needed

    def is_older(self, age_s: float) -> bool:
        return self._read_at_s is None or self._clock() - self._read_at_s >= age_s

    def read(self) -> None:
        began_s = self._clock()
        self._keys = {key.id: key for key in self._shelf.all()}
        self._needed = self._needed or bool(self._keys)
        self._read_at_s = began_s

    def get(self, key_id: str) -> ApiKey | None:
        return self._keys.get(key_id)

    def holder(self, text: str) -> ApiKey | None:
        """Whose key this is. How long that takes does not tell whether there is a key of that id."""
        match = FORM.fullmatch(text)
        key = self._keys.get(match[1] if match else "")
        same = hmac.compare_digest(digest(text), key.hash if key else NOBODY)
        return key if same else None


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _read(body: Mapping[str, object]) -> ApiKey:
    known = known_fields(ApiKey, dict(body))
    allowance = Allowance(**known_fields(Allowance, known["allowance"]))
    return ApiKey(**{**known, "scopes": tuple(known["scopes"]), "allowance": allowance})
