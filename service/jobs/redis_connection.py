"""The URL of a Redis and a script go in; its steps, each run whole or not at all, come out as their replies."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.retry import Retry

from service.errors import InvalidOptions, QueueUnavailable, QueueUnfit, first_line

_OLDEST = (6, 2)
_CONNECT_S = 2.0
_REPLY_S = 5.0
_IDLE_CHECK_S = 15
_CHECKED_S = 10.0


class RedisConnection:
    """Threads share it: each step borrows a connection. Whatever Redis cannot do now is QueueUnavailable."""

    def __init__(self, url: str, namespace: str, script: Sequence[str], policy: Mapping[str, Any]) -> None:
        """`script` are the names of its files beside this one, in order; `policy` is given to each of its steps."""
        # In braces, so that all keys of a namespace belong to one slot.
        self._space = f"{{{namespace}}}"
        self._policy = json.dumps(policy)
        # A step whose reply does not come in time is not sent again by itself: it may still be about to run.
        retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), 2, supported_errors=(NotConnected,))
        try:
            self._redis = redis.Redis.from_url(
                url,
                decode_responses=True,
                encoding_errors="replace",
                socket_connect_timeout=_CONNECT_S,
                socket_timeout=_REPLY_S,
                health_check_interval=_IDLE_CHECK_S,
                retry=retry,
            )
        except ValueError as error:
            raise InvalidOptions(f"The URL of Redis cannot be read: {first_line(error)}") from None
        self._script = self._redis.register_script(_text(script))
        try:
            info = self._info()
            _check(info)
            self.lossy = self._lossy(info)
        except BaseException:
            self.close()
            raise
        self._checked_s = time.monotonic()

    def check(self) -> None:
        """Raises QueueUnfit where settings were changed, or a server of other settings took over; asks now and then."""
        if time.monotonic() - self._checked_s >= _CHECKED_S:
            _check(self._info())
            self._checked_s = time.monotonic()

    def step(self, name: str, /, **args: Any) -> list[Any]:
        """The reply of a step: "ok" and what there is, or the name of an error and a detail."""
        # Half a surrogate pair, as odd file names bring it into messages, is nothing that Lua's reader of JSON takes.
        text = json.dumps(args, ensure_ascii=False).encode("utf-8", "replace")
        try:
            reply: list[Any] = self._script(keys=[self._space], args=[name, self._policy, text])
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        return reply

    def fields(self, key: str) -> dict[str, str]:
        try:
            found: Any = self._redis.hgetall(f"{self._space}:{key}")
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        return dict(found)

    def close(self) -> None:
        self._redis.close()

    def _info(self) -> dict[str, Any]:
        try:
            info: Any = self._redis.info()
        except redis.RedisError as error:
            raise self._unavailable(error) from error
        return dict(info)

    def _lossy(self, info: dict[str, Any]) -> str | None:
        """The setting by which a crash loses what was acknowledged; none where it is not to be known."""
        if not int(info.get("aof_enabled", 0)):
            return "appendonly is 'no'"
        try:
            known: Any = self._redis.config_get("appendfsync")
        except redis.RedisError:  # a service that is rented lets nobody see its settings
            return None
        found = known.get("appendfsync", "always")
        return None if found == "always" else f"appendfsync is {found!r}"

    def _unavailable(self, error: redis.RedisError) -> QueueUnavailable:
        # Not the URL itself, which may hold a password.
        place = self._redis.connection_pool.connection_kwargs
        named = place.get("path") or f"{place.get('host')}:{place.get('port')}"
        return QueueUnavailable(f"Redis at {named} does not do its work: {first_line(error)}")


def _text(script: Sequence[str]) -> str:
    return "\n".join(Path(__file__).with_name(part).read_text(encoding="utf-8") for part in script)


def _check(info: dict[str, Any]) -> None:
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise QueueUnfit(f"This is Redis {version}; at least {'.'.join(map(str, _OLDEST))} is needed")
    found = info.get("maxmemory_policy", "unknown")
    if found != "noeviction":
        raise QueueUnfit(f"This Redis may evict jobs: its maxmemory-policy is {found!r}, and 'noeviction' is needed")
    if int(info.get("cluster_enabled", 0)):
        raise QueueUnfit("This Redis is part of a cluster; one server, with replicas or not, is needed")
