"""The URL of a Redis goes in; steps of redis_steps.lua, each run whole or not at all, come out as their replies."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.retry import Retry

from service.errors import InvalidOptions, QueueUnavailable, QueueUnfit, first_line

_PARTS = ("redis_records.lua", "redis_steps.lua")
_OLDEST = (6, 2)
_CONNECT_S = 2.0
_REPLY_S = 5.0
_IDLE_CHECK_S = 15
_LOG = logging.getLogger(__name__)


class RedisConnection:
    """Threads share it: each step borrows a connection. Whatever Redis cannot do now is QueueUnavailable."""

    def __init__(self, url: str, space: str, policy: dict[str, Any]) -> None:
        self._space = space
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
        self._script = self._redis.register_script(_script())
        try:
            _check(self._info())
        except BaseException:
            self.close()
            raise

    def step(self, name: str, **args: Any) -> list[Any]:
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

    def _unavailable(self, error: redis.RedisError) -> QueueUnavailable:
        # Not the URL itself, which may hold a password.
        place = self._redis.connection_pool.connection_kwargs
        named = place.get("path") or f"{place.get('host')}:{place.get('port')}"
        return QueueUnavailable(f"Redis at {named} does not do its work: {first_line(error)}")


def _script() -> str:
    return "\n".join(Path(__file__).with_name(part).read_text(encoding="utf-8") for part in _PARTS)


def _check(info: dict[str, Any]) -> None:
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise QueueUnfit(f"This is Redis {version}; at least {'.'.join(map(str, _OLDEST))} is needed")
    found = info.get("maxmemory_policy", "unknown")
    if found != "noeviction":
        raise QueueUnfit(f"This Redis may evict jobs: its maxmemory-policy is {found!r}, and 'noeviction' is needed")
    if int(info.get("cluster_enabled", 0)):
        raise QueueUnfit("This Redis is part of a cluster; one server, with replicas or not, is needed")
    if not int(info.get("aof_enabled", 0)):
        _LOG.warning("This Redis loses accepted jobs when it crashes; set 'appendonly yes' and 'appendfsync always'")
