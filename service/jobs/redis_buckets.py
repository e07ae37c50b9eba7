"""A name, a rate and a burst in; a token of a bucket that all machines share, or how long until there is one, out.

A bucket is the key `{namespace}:bucket:{name}` (the namespace with its braces), which is gone when it would be full.
"""

from __future__ import annotations

from service.jobs.redis_connection import RedisConnection


class RedisBuckets:
    """Threads and processes share them; the moment is Redis's."""

    def __init__(self, url: str, namespace: str = "tal") -> None:
        self._redis = RedisConnection(url, namespace, ("redis_buckets.lua",), {})

    def take(self, name: str, per_s: float, burst: int) -> float:
        return float(self._redis.step("take", name=name, per_s=per_s, burst=burst)[1])

    def close(self) -> None:
        self._redis.close()
