"""The address of an artifact store in, the store out; an address is plain values, fit for a message to a process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.errors import DeploymentError
from service.jobs.artifacts import ArtifactStore
from service.jobs.local_store import LocalStore

S3 = "s3://"
GIB = 1024**3


@dataclass(frozen=True)
class StoreAddress:
    """A folder, or `s3://bucket/prefix`, for which the environment has endpoint and credentials (AWS_*)."""

    place: str
    min_free_bytes: int = 0
    cache_folder: str = ""
    cache_bytes: int = 20 * GIB


def open_store(address: StoreAddress) -> ArtifactStore:
    if not address.place.startswith(S3):
        return LocalStore(Path(address.place), address.min_free_bytes)
    try:
        from service.jobs.s3_store import S3Store  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError:
        raise DeploymentError(f"artifact store {address.place}: obstore is missing; the extra 's3' brings it") from None
    bucket, _, prefix = address.place.removeprefix(S3).partition("/")
    return S3Store(bucket, prefix.strip("/"), Path(address.cache_folder), address.cache_bytes, address.min_free_bytes)
