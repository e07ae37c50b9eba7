"""A site in; what two hosts do with jobs while cables are pulled and plugged in again, row by row, out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.deployment import wait_until
from tests.faults.finding import Finding
from tests.faults.outages import submit
from tests.faults.promises import all_succeeded, judge
from tests.hosts.callers import LONGEST_S, Caller
from tests.hosts.site import LEASE_S, Host, Site

CUT_S = 10.0
# Longer than an upload waits for object storage, and too short for three attempts at a job.
LONG_CUT_S = 30.0
# A lease, the pause before a second delivery, and what A is busy with meanwhile.
RECOVERY_S = LEASE_S + 7.0
BACK_S = 20.0
CALLERS_PER_HOST = 2
BACKLOG = ("big-20", "slow-20") * 3


@dataclass
class Row(Finding):
    """A finding, and what else is worth knowing of it."""

    seconds: float = 0.0
    seen: list[str] = field(default_factory=list)

    def recovered(self, what: str, seconds: float, bound_s: float) -> None:
        self.seen.append(f"{what} after {seconds:.1f} s (at most {bound_s:g})")
        self.took([seconds], bound_s)


def work_of_both(site: Site) -> Iterator[Row]:
    row = Row("jobs sent to A", "redis")
    ids = [submit(site.a, kind) for kind in ["slow-5"] * 10 + ["big-5"] * 2]
    _all_done(row, site, ids)
    for host in site.hosts:
        done = sum(host.runs_of(job_id) for job_id in ids)
        row.seen.append(f"{done} done on {host.name.upper()}")
        row.expect(done, f"host {host.name} did none of them")
        kept = [name for name in ("store", "queue.db") if (host.settings.home / name).exists()]
        row.expect(not kept, f"host {host.name} keeps {kept} for itself")
    runs = sum(host.runs_of(job_id) for host in site.hosts for job_id in ids)
    row.expect(runs == len(ids), f"{len(ids)} jobs ran {runs} times")
    row.seen.append("every result the same at both APIs, two of 400 KiB among them")
    yield row


def host_cut_off(site: Site) -> Iterator[Row]:
    """B is away, then back; its worker learns only then that its job was given to A."""
    away, victim = _away(site)
    yield away
    yield _back(site, victim)


def storage_cut_off(site: Site) -> Iterator[Row]:
    for cut_s in (CUT_S, LONG_CUT_S):
        row = Row(f"object storage cut off for {cut_s:g} s under load", "redis")
        refused = _outage(row, site, "s3", cut_s)
        row.expect(refused or cut_s == CUT_S, "no upload was refused")
        yield row


def redis_cut_off(site: Site) -> Iterator[Row]:
    row = Row(f"Redis cut off for {CUT_S:g} s under load", "redis")
    row.expect(_outage(row, site, "redis", CUT_S), "no upload was refused")
    yield row


def orderly_end(site: Site) -> Iterator[Row]:
    row = Row("all asked to end", "redis")
    members = [(host, host.terminate(place)) for host in site.hosts for place in list(host.members)]
    for host, member in members:
        status = member.process.wait(60.0)
        row.expect(status == 0, f"{member.name} of {host.name} ended with status {status}")
    for host in site.hosts:
        row.broken += host.leftovers.at_end()
    row.seen.append(f"{len(members)} processes that ran from the first row on ended with status 0")
    yield row


Trial = Callable[[Site], Iterator[Row]]
TRIALS: tuple[Trial, ...] = (work_of_both, host_cut_off, storage_cut_off, redis_cut_off)


def _away(site: Site) -> tuple[Row, str]:
    """And the job that ran on B."""
    row = Row("B cut off while its worker runs a job and others wait", "redis")
    ids = _until_one_runs_on_b(site, "slow-40")
    victim = ids[-1]
    site.network.cut("b")
    cut_at_s = time.monotonic()
    ids += [submit(site.a) for _ in range(6)]
    wait_until(lambda: site.a.runs_of(victim), RECOVERY_S + BACK_S)
    row.recovered("its job was under way on A", time.monotonic() - cut_at_s, RECOVERY_S)
    _all_done(row, site, ids, (site.a,))
    job = site.a.job(victim)
    row.expect((job.worker, job.delivery) == (site.a.worker.name, 2), f"{job.worker} did it, delivery {job.delivery}")
    return row, victim


def _back(site: Site, victim: str) -> Row:
    row = Row("B plugged in again", "redis")
    before = site.a.events(victim), _result(site.a, victim)
    site.network.mend("b")
    mended_at_s = time.monotonic()
    ids = _until_one_runs_on_b(site, "slow-10")
    row.recovered("its worker had a job again", time.monotonic() - mended_at_s, BACK_S)
    ids.append(submit(site.b))
    _all_done(row, site, ids)
    wait_until(lambda: f"job {victim} was given to another worker" in site.b.worker_log)
    row.seen.append("it was told that the other job is no longer its own")
    row.expect((site.a.events(victim), _result(site.b, victim)) == before, "what B had found changed something")
    return row


def _outage(row: Row, site: Site, machine: str, cut_s: float) -> int:
    """Videos have to be fetched and results kept meanwhile; how many uploads were refused."""
    waiting = [submit(site.a, kind) for kind in BACKLOG]
    callers = [Caller(host) for host in site.hosts for _ in range(CALLERS_PER_HOST)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: all(caller.ids or caller.wrong for caller in callers), LONGEST_S)
        site.network.cut(machine)
        time.sleep(cut_s)
        site.network.mend(machine)
        mended_at_s = time.monotonic()
        wait_until(lambda: all(caller.wrong or caller.accepted_at_s[-1] > mended_at_s for caller in callers), LONGEST_S)
    finally:
        for caller in callers:
            caller.end()
    _all_done(row, site, [*waiting, *(job_id for caller in callers for job_id in caller.ids)])
    return _tell(row, callers)


def _tell(row: Row, callers: Sequence[Caller]) -> int:
    row.broken += [wrong for caller in callers for wrong in caller.wrong]
    refusals = sum((caller.refusals for caller in callers), Counter())
    told = ", ".join(f"{count} × {refusal}" for refusal, count in sorted(refusals.items()))
    row.seen.append(f"uploads refused: {told}; all of them accepted later" if told else "no upload refused")
    row.took([seconds for caller in callers for seconds in caller.answered_in_s], LONGEST_S)
    row.seen.append(f"longest answer {row.worst_s:.1f} s (at most {LONGEST_S:g})")
    return refusals.total()


def _all_done(row: Row, site: Site, ids: Sequence[str], hosts: Sequence[Host] | None = None) -> None:
    """Every job succeeded once, and all of these hosts' APIs give the same result; no process died of the trial."""
    jobs = site.a.await_end(ids)
    judge(row, site.a, jobs)
    all_succeeded(row, jobs)
    for job_id in ids:
        results = [_result(host, job_id) for host in hosts or site.hosts]
        row.expect(all(result == results[0] for result in results), f"job {job_id} has another result elsewhere")
    again = sum(job.attempts > 1 for job in jobs)
    if again:
        row.seen.append(f"{again} tried again")
    row.broken += [f"{name} ended" for name in site.ended]


def _result(host: Host, job_id: str) -> tuple[int, Any]:
    """Of a job without one, which is told elsewhere, the error's code."""
    with host.http() as http:
        answer = http.get(f"/v1/jobs/{job_id}/result")
    return answer.status_code, answer.json() if answer.status_code == 200 else answer.json()["code"]


def _until_one_runs_on_b(site: Site, kind: str) -> list[str]:
    """Jobs one after the other, each sent once the one before it runs, until the last one runs on B."""
    ids: list[str] = []
    while not ids or not site.b.runs_of(ids[-1]):
        ids.append(submit(site.a, kind))
        wait_until(lambda: any(host.runs_of(ids[-1]) for host in site.hosts), BACK_S)
    return ids
