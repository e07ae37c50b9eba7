"""Workers that are ended, stopped, held up or killed by their job: what becomes of it, and of other jobs."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import time
from pathlib import Path

from service.jobs.job import Job
from tests.faults.deployment import LEASE_S, Deployment, go_on, stop, wait_until
from tests.faults.finding import Finding, Scale
from tests.faults.outages import submit
from tests.faults.promises import all_succeeded, judge

SLACK_S = 5.0
STALL_S = 4
WORK_S = 1


def sigterm_amid_a_job(service: Deployment, scale: Scale) -> Finding:
    """The job takes longer than the worker may drain; it is handed back, and the attempt does not count."""
    found = Finding("SIGTERM of a worker amid a job", service.backend)
    job_id = submit(service, "slow-30")
    place = _place_of(service, job_id)
    ended_at_s = time.time()
    member = service.terminate(place)
    member.process.wait(30.0)
    found.expect(member.process.returncode == 0, f"the worker's exit status is {member.process.returncode}")
    found.broken += service.leftovers.orphans_of(member.name)
    service.start_worker(place)
    job = service.await_end([job_id])[0]
    _judge_one(found, service, job)
    found.expect(job.delivery == 2, f"it was delivered {job.delivery} times")
    found.expect(job.attempts == 1, f"it used {job.attempts} attempts")
    found.took([_runs_at_s(service, job_id)[-1] - ended_at_s], service.settings.drain_s + SLACK_S)
    return found


def poison(service: Deployment, scale: Scale) -> Finding:
    """A video that kills every process which works on it, among others that are sound."""
    found = Finding("a video that kills the model process", service.backend)
    poisonous = submit(service, "poison-0")
    others = [submit(service) for _ in range(6)]
    bad = service.await_end([poisonous])[0]
    jobs = service.await_end(others)
    found.kills = service.runs_of(poisonous)
    judge(found, service, [bad, *jobs])
    all_succeeded(found, jobs)
    found.expect(bad.state == "failed" and bad.dead_letter, f"the poisonous job is {bad.state}, no dead letter")
    attempts = service.settings.max_attempts
    found.expect((bad.attempts, found.kills) == (attempts, attempts), f"it ran {found.kills} times")
    found.expect(bad.failure and bad.failure.code == "worker_crashed", f"it failed by {bad.failure}")
    return found


def hung_decoder(service: Deployment, scale: Scale) -> Finding:
    found = Finding("a decoder that hangs", service.backend)
    hung, other = submit(service, f"hang-{STALL_S}"), submit(service)
    bad, good = service.await_end([hung, other])
    judge(found, service, [bad, good])
    all_succeeded(found, [good])
    found.expect(bad.failure and bad.failure.code == "decode_timeout", f"it is {bad.state}: {bad.failure}")
    found.took([service.states(hung)[-1][0] - _runs_at_s(service, hung)[-1]], STALL_S + SLACK_S)
    return found


def held_interpreter(service: Deployment, scale: Scale) -> Finding:
    """A step of 2.5 leases in which the model process can do nothing else."""
    found = Finding("a step that holds the GIL for 2.5 leases", service.backend)
    job = service.await_end([submit(service, f"gil-{round(LEASE_S * 25)}")])[0]
    _judge_one(found, service, job)
    runs = service.runs_of(job.id)
    found.expect((runs, job.delivery) == (1, 1), f"it ran {runs} times in {job.delivery} deliveries")
    return found


def stopped_supervisor(service: Deployment, scale: Scale) -> Finding:
    """A machine that freezes and comes back: its job went to another worker, and its own result counts nothing."""
    found = Finding("a supervisor stopped for longer than its lease, then let go on", service.backend)
    job_id = submit(service, f"slow-{10 * WORK_S}")
    process = service.members[_place_of(service, job_id)].process
    _stop_between_writes(service, process)
    stopped_at_s, before = time.time(), service.job(job_id).delivery
    try:
        wait_until(lambda: service.job(job_id).delivery > before, LEASE_S + 3 * SLACK_S)
    finally:
        go_on(process)
    job = service.await_end([job_id])[0]
    service.await_idle()  # what it found comes late
    _judge_one(found, service, job)
    again_at_s = next((at_s for at_s in _runs_at_s(service, job_id) if at_s > stopped_at_s), stopped_at_s)
    ended_at_s = service.states(job_id)[-1][0]
    found.expect(ended_at_s - again_at_s >= WORK_S, "what the stopped one found was taken as the result")
    found.took([again_at_s - stopped_at_s], LEASE_S + SLACK_S)
    return found


def _stop_between_writes(service: Deployment, process: subprocess.Popen[bytes]) -> None:
    """One that stands still amid a write to an SQLite file keeps all others from it, which is no promise of ours."""
    stop(process)
    while service.backend == "sqlite" and not _is_writable(service.settings.queue_file):
        go_on(process)
        time.sleep(0.1)
        stop(process)


def _is_writable(file: Path) -> bool:
    with contextlib.closing(sqlite3.connect(file, timeout=0.2, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
    return True


def _judge_one(found: Finding, service: Deployment, job: Job) -> None:
    judge(found, service, [job])
    all_succeeded(found, [job])


def _place_of(service: Deployment, job_id: str) -> str:
    """Where the job runs, once its work has begun."""
    wait_until(lambda: service.runs_of(job_id))
    worker = service.job(job_id).worker
    return next(place for place, member in service.members.items() if member.name == worker)


def _runs_at_s(service: Deployment, job_id: str) -> list[float]:
    return [at_s for at_s, state in service.states(job_id) if state == "running"]
