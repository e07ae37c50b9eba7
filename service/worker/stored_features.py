"""An artifact store in; a place where the pipeline keeps features, and finds them again, out."""

from __future__ import annotations

from service.jobs.artifacts import ArtifactStore


class StoredFeatures:
    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def load(self, key: str) -> bytes:
        return self._store.path("features", key).read_bytes()

    def save(self, key: str, data: bytes) -> None:
        self._store.put("features", data, key)
