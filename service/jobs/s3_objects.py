"""A bucket's prefix and names of objects in; bytes, dates and conditional writes out, none of them without an end.

Credentials, region and endpoint come from the usual AWS_* variables. What the storage answers becomes our errors:
nothing there is None or False, an answer that does not come is Unavailable.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

import obstore
from obstore import exceptions
from obstore.store import S3Store as Client

from service.errors import Unavailable, first_line

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig

# Where no protocol is given HTTPS is meant.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# A request of 10 s and retries that begin within 20 s: no small operation takes longer than 30 s.
SMALL: ClientConfig = {"connect_timeout": "5s", "timeout": "10s"}
SMALL_RETRY_S, SMALL_RETRIES = 20.0, 3
# A part of a large upload has this long; a download only must not pause.
UPLOAD: ClientConfig = {"connect_timeout": "5s", "timeout": "300s"}
DOWNLOAD: ClientConfig = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "24h"}
LARGE_RETRY_S, LARGE_RETRIES = 60.0, 5
PART_BYTES, MOST_PARTS, UPLOADS = 16 * 1024 * 1024, 9000, 4
BLOCK_BYTES = 1024 * 1024
REFUSALS = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)


@dataclass(frozen=True)
class Found:
    """An object as the storage describes it; `version` names its bytes."""

    size_bytes: int
    version: str
    written_at_s: float


class Objects:
    """All objects below one prefix of one bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "AWS")
        self.where = f"bucket {bucket!r} at {self.endpoint}"
        self._bucket, self._prefix = bucket, prefix
        self._small = self._client(SMALL, SMALL_RETRIES, SMALL_RETRY_S)
        self._upload = self._client(UPLOAD, LARGE_RETRIES, LARGE_RETRY_S)
        self._download = self._client(DOWNLOAD, LARGE_RETRIES, LARGE_RETRY_S)

    def find(self, name: str) -> Found | None:
        with self._answered(), contextlib.suppress(FileNotFoundError):
            return _found(obstore.head(self._small, name))
        return None

    def read(self, name: str) -> tuple[bytes, Found] | None:
        """A small object, whole."""
        with self._answered(), contextlib.suppress(FileNotFoundError):
            answer = obstore.get(self._small, name)
            return answer.bytes().to_bytes(), _found(answer.meta)
        return None

    def write(self, name: str, data: bytes) -> None:
        with self._answered():
            obstore.put(self._small, name, data, use_multipart=False)

    def create(self, name: str, data: bytes) -> str | None:
        """The version; None where there is an object of that name already."""
        with self._answered(), contextlib.suppress(exceptions.AlreadyExistsError):
            return str(obstore.put(self._small, name, data, mode="create")["e_tag"])
        return None

    def replace(self, name: str, data: bytes, version: str) -> str | None:
        """The new version; None where the object no longer has the one given."""
        with self._answered(), contextlib.suppress(exceptions.PreconditionError, FileNotFoundError):
            return str(obstore.put(self._small, name, data, mode={"e_tag": version})["e_tag"])
        return None

    def upload(self, name: str, file: Path) -> str:
        """All of the file or nothing; the version of the new object."""
        size_bytes = file.stat().st_size
        is_large = size_bytes > PART_BYTES
        part_bytes = max(PART_BYTES, size_bytes // MOST_PARTS + 1)
        with self._answered():
            client = self._upload if is_large else self._small
            answer = obstore.put(
                client, name, file, use_multipart=is_large, chunk_size=part_bytes, max_concurrency=UPLOADS
            )
        return str(answer["e_tag"])

    def download(self, name: str, file: IO[bytes]) -> str | None:
        """The version that came; None where there is none."""
        with self._answered():
            try:
                answer = obstore.get(self._download, name)
            except FileNotFoundError:
                return None
            for block in answer.stream(BLOCK_BYTES):
                file.write(block)
        return _found(answer.meta).version

    def delete(self, name: str) -> None:
        """One that is not there is no error."""
        with self._answered(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._small, name)

    def list(self, folder: str) -> Iterator[tuple[str, Found]]:
        """Names below the folder."""
        with self._answered():
            for listed in obstore.list(self._small, f"{folder}/"):
                for meta in listed:
                    yield meta["path"].removeprefix(f"{folder}/"), _found(meta)

    def _client(self, options: ClientConfig, retries: int, retry_s: float) -> Client:
        with self._answered():
            return Client(
                self._bucket,
                prefix=self._prefix or None,
                client_options={**options, "allow_http": self.endpoint.startswith("http://")},
                retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=retry_s)},
            )

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except REFUSALS as error:
            raise Unavailable(f"{self.where} refuses these credentials: {first_line(error)}") from error
        except (exceptions.BaseError, TimeoutError, ConnectionError) as error:
            raise Unavailable(f"{self.where} does not answer: {first_line(error)}") from error
        except FileNotFoundError as error:
            raise Unavailable(f"there is no {self.where}: {first_line(error)}") from error


def is_lasting(error: Unavailable) -> bool:
    """Credentials that are refused, or no such bucket: at the start of a service it would not pass."""
    return isinstance(error.__cause__, (*REFUSALS, FileNotFoundError))


def _found(meta: ObjectMeta) -> Found:
    return Found(meta["size"], str(meta["e_tag"]), meta["last_modified"].timestamp())
