"""A store on a disk that runs full: typed refusals, nothing left over, and all is well again once there is room."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.faults.deployment import Deployment, wait_until
from tests.faults.finding import Finding, Scale
from tests.faults.outages import submit
from tests.faults.promises import all_succeeded, clean_end, judge

SIZE_BYTES = 16 * 1024 * 1024
ROOM_BYTES = 128 * 1024


def disk_full(folder: Path, redis_url: str | None, scale: Scale) -> Finding:
    found = Finding("disk full at an upload and at a result", "redis" if redis_url else "sqlite")
    disk = folder / "disk"
    with _small_disk(disk) as refused:
        if refused:
            found.skipped = refused
            return found
        with Deployment(folder, redis_url, store=disk / "store", max_attempts=10) as service:
            service.start(workers=1)
            _full_at_upload(found, service, disk)
            _full_at_result(found, service, disk)
            clean_end(found, service)
    return found


def _full_at_upload(found: Finding, service: Deployment, disk: Path) -> None:
    large = service.clips.fresh().read_bytes() + os.urandom(4 * ROOM_BYTES)
    with _filled(disk):
        answer = _post(service, large)
        code = answer.json().get("code")
        found.expect((answer.status_code, code) == (507, "storage_full"), f"an upload: {answer.status_code} {code}")
        found.expect(not service.leftovers.incoming(), "the part of an upload that fitted is left")
    again = submit(service)
    jobs = service.await_end([again])
    judge(found, service, jobs)
    all_succeeded(found, jobs)


def _full_at_result(found: Finding, service: Deployment, disk: Path) -> None:
    """The disk is filled while the job runs, and freed once its result has found no room."""
    job_id = submit(service, "big-10")
    wait_until(lambda: service.runs_of(job_id))
    with _filled(disk):
        try:
            failure = wait_until(lambda: service.job(job_id).failure or service.job(job_id).finished)
            code = getattr(failure, "code", None)
            found.expect(code == "storage_full", f"a result without room: {failure}")
        except TimeoutError:
            found.broken.append("a result without room is not told")
        found.expect(not service.leftovers.incoming(), "the part of a result that fitted is left")
    jobs = service.await_end([job_id])
    judge(found, service, jobs)
    all_succeeded(found, jobs)


@contextlib.contextmanager
def _small_disk(path: Path) -> Iterator[str | None]:
    """A file system of its own in memory; the reason where this user may not have one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        yield "there is no mount program"
        return
    if mounted.returncode:
        yield f"no small disk can be mounted: {mounted.stderr.strip()}"
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextlib.contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """Only `ROOM_BYTES` are left, however much was free."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - ROOM_BYTES)
    try:
        yield
    finally:
        filler.unlink()


def _post(service: Deployment, body: bytes) -> httpx.Response:
    with service.http() as http:
        headers = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
        return http.post("/v1/detections?name=plain-0.mp4", content=body, headers=headers)
