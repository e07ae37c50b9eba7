"""Every fault of `make faults` at about a tenth of its scale; Redis goes through what can go wrong only with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import run
from tests.faults.deployment import Deployment
from tests.faults.finding import TENTH, Finding
from tests.faults.full_disk import disk_full
from tests.faults.killing import random_kills
from tests.faults.promises import clean_end
from tests.faults.restarts import rolling_restart
from tests.service.jobs import redis_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with run.shared_service(tmp_path_factory.mktemp("shared"), None, TENTH) as started:
        yield started


def judged(found: Finding) -> None:
    if found.skipped:
        pytest.skip(found.skipped)
    assert found.broken == []


def test_every_job_succeeds_once_whatever_is_killed(tmp_path: Path) -> None:
    judged(random_kills(tmp_path, None, TENTH))


@pytest.mark.needs_redis
def test_every_job_on_redis_succeeds_once_whatever_is_killed(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "service").mkdir()
    with redis_server.running(tmp_path / "redis") as url:
        judged(random_kills(tmp_path / "service", url, TENTH))


@pytest.mark.needs_redis
@pytest.mark.parametrize("outage", run.OUTAGES, ids=lambda outage: outage.__name__)
def test_an_outage_of_redis_costs_no_job(outage, tmp_path: Path) -> None:
    judged(outage(tmp_path, TENTH))


def test_no_request_fails_while_everything_is_restarted(tmp_path: Path) -> None:
    judged(rolling_restart(tmp_path, None, TENTH))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    judged(disk_full(tmp_path, None, TENTH))


@pytest.mark.parametrize("fault", run.SHARED, ids=lambda fault: fault.__name__)
def test_a_service_keeps_its_promises_through(fault, service: Deployment) -> None:
    judged(fault(service, TENTH))


def test_after_all_of_these_nothing_is_left(service: Deployment) -> None:
    found = Finding("what is left", "sqlite")
    clean_end(found, service)
    judged(found)
