"""A queue of each backend, for what both promise."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.jobs.queue import JobQueue
from tests.service.jobs.harness import Harness, RedisHarness, SqliteHarness
from tests.service.jobs.s3_server import S3Server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    redis_server = importlib.import_module("tests.service.jobs.redis_server")
    with redis_server.RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """For clients in this process."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.needs_redis)])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    made: Any
    if request.param == "sqlite":
        made = SqliteHarness(tmp_path)
    else:
        made = RedisHarness(request.getfixturevalue("redis_url"), f"t{secrets.token_hex(6)}")
    yield made
    made.close()


@pytest.fixture
def queue(harness: Harness) -> JobQueue:
    return harness.open()
