"""What the SQLite file adds to the queue's promises: durability, faults of the disk, boots and file systems."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.errors import QueueUnavailable, QueueUnfit, Unavailable
from service.jobs import lease_clock, sqlite_counts, sqlite_queue, sqlite_schema
from service.jobs.job import PRIORITIES
from service.jobs.lease_clock import SystemClock
from service.jobs.queue import JobFilter
from service.jobs.sqlite_queue import SqliteQueue
from tests.service.jobs.harness import POLICY, MovableClock, request

SUBMIT = """
import resource, signal, sys
from pathlib import Path
from service.jobs.sqlite_queue import SqliteQueue
from tests.service.jobs.harness import request
queue = SqliteQueue(Path(sys.argv[1]))
limit = int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for _ in range(5000):
    print(queue.submit(request()).job.id, flush=True)
"""


def submitting(path: Path, limit_bytes: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SUBMIT, str(path), str(limit_bytes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def all_ids(queue: SqliteQueue) -> set[str]:
    return {job.id for job in queue.find(JobFilter(), 100_000)}


@pytest.mark.parametrize("after_jobs", [1, 7, 40])
def test_every_accepted_job_is_there_after_the_death_of_its_process(tmp_path: Path, after_jobs: int) -> None:
    with submitting(tmp_path / "q") as child:
        assert child.stdout is not None
        accepted = [child.stdout.readline().strip() for _ in range(after_jobs)]
        child.kill()
        accepted += [line.strip() for line in child.stdout if line.endswith("\n")]
    queue = SqliteQueue(tmp_path / "q", POLICY)
    assert set(accepted) <= all_ids(queue)
    assert len(all_ids(queue)) <= len(accepted) + 1
    queue.ping()
    queue.close()


def test_a_file_that_cannot_grow_refuses_jobs_and_keeps_those_it_has(tmp_path: Path) -> None:
    with submitting(tmp_path / "q", limit_bytes=400_000) as child:
        printed, said = child.communicate(timeout=60)
    assert "QueueUnavailable" in said or "StorageFull" in said
    accepted = set(printed.split())
    assert accepted
    queue = SqliteQueue(tmp_path / "q", POLICY)
    assert all_ids(queue) == accepted
    queue.submit(request())
    queue.close()


def test_a_disk_without_room_is_told_as_full_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SqliteQueue(tmp_path / "q", POLICY)
    connect = sqlite_schema.connect

    def small(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 1")  # SQLite then meets a full disk at the file's present size
        return connection

    queue.close()
    monkeypatch.setattr(sqlite_schema, "connect", small)
    accepted = set()

    def fill() -> None:
        while True:
            accepted.add(queue.submit(request()).job.id)

    with pytest.raises(Unavailable) as refused:
        fill()
    assert refused.value.code == "storage_full"
    assert all_ids(queue) == accepted
    queue.close()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "new" / "q", POLICY)
    queue.submit(request())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    queue.close()
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs", "vboxsf", "prl_fs", "autofs"])
def test_a_network_file_system_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n"
    with pytest.raises(QueueUnfit, match=kind):
        SqliteQueue(tmp_path / "q", POLICY, mounts=mounts)
    assert not (tmp_path / "q").exists()


def test_a_file_system_that_is_mounted_when_somebody_comes_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts, statvfs = [f"/dev/sda / ext4 rw 0 0\nauto {tmp_path} autofs rw 0 0\n"], os.statvfs

    def mounting(folder: Path) -> os.statvfs_result:
        found = statvfs(folder)
        mounts.append(f"{mounts[0]}server:/x {tmp_path} nfs4 rw 0 0\n")
        return found

    monkeypatch.setattr(os, "statvfs", mounting)
    monkeypatch.setattr(sqlite_schema, "_mounts", lambda: mounts[-1])
    with pytest.raises(QueueUnfit, match="nfs4"):
        SqliteQueue(tmp_path / "new" / "q", POLICY)


def test_a_local_disk_beside_or_over_a_network_file_system_is_accepted(tmp_path: Path) -> None:
    spaced = tmp_path / "a b"
    mounts = f"server:/x / nfs rw 0 0\nserver:/y {tmp_path}/other nfs rw 0 0\n/dev/b {tmp_path}/a\\040b ext4 rw 0 0\n"
    SqliteQueue(spaced / "q", POLICY, mounts=mounts).close()
    with pytest.raises(QueueUnfit):
        SqliteQueue(tmp_path / "c" / "q", POLICY, mounts=mounts)


def test_a_lease_and_a_pause_of_another_boot_are_over(tmp_path: Path) -> None:
    clock = MovableClock()
    queue = SqliteQueue(tmp_path / "q", POLICY, clock)
    job = queue.submit(request()).job
    assert queue.take("w1", ("m",), PRIORITIES)
    clock.boot, clock.passed_s = "second boot", -900.0
    claim = queue.take("w2", ("m",), PRIORITIES)
    assert claim is not None
    assert (claim.job.id, claim.delivery) == (job.id, 2)
    assert queue.workers() == []
    queue.close()


def test_a_clock_that_is_set_does_not_end_a_lease(tmp_path: Path) -> None:
    class SetClock(MovableClock):
        set_s = 0.0

        def wall_s(self) -> float:
            return super().wall_s() + self.set_s

    clock = SetClock()
    queue = SqliteQueue(tmp_path / "q", POLICY, clock)
    queue.submit(request())
    assert queue.take("w1", ("m",), PRIORITIES)
    clock.set_s = 86400.0
    assert queue.take("w2", ("m",), PRIORITIES) is None
    queue.close()


def test_a_machine_that_slept_gives_every_owner_a_lease_to_renew(tmp_path: Path) -> None:
    clock = MovableClock()
    queue = SqliteQueue(tmp_path / "q", POLICY, clock)
    job = queue.submit(request()).job
    claim = queue.take("w1", ("m",), PRIORITIES)
    assert claim is not None
    clock.suspend(3600.0)
    assert queue.take("w2", ("m",), PRIORITIES) is None
    assert queue.sweep().requeued == 0
    assert queue.renew(claim).attempts == 1
    clock.suspend(3600.0)
    assert queue.sweep().requeued == 0
    clock.move(POLICY.lease_s * 1.1)
    again = queue.take("w2", ("m",), PRIORITIES)
    assert again is not None
    assert again.job.id == job.id
    queue.close()


def test_a_file_that_was_locked_for_long_gives_every_owner_a_lease_to_renew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_clock, "LONG_LOCKED_S", 0.2)
    clock = MovableClock()
    queue = SqliteQueue(tmp_path / "q", POLICY, clock)
    queue.submit(request())
    claim = queue.take("w1", ("m",), PRIORITIES)
    assert claim is not None
    other = sqlite3.connect(tmp_path / "q", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    clock.move(POLICY.lease_s * 1.1)
    unlock = threading.Timer(0.5, other.execute, ("ROLLBACK",))
    unlock.start()
    assert queue.take("w2", ("m",), PRIORITIES) is None
    unlock.join()
    assert queue.renew(claim).attempts == 1
    clock.move(POLICY.lease_s * 1.1)
    assert queue.take("w2", ("m",), PRIORITIES) is not None
    other.close()
    queue.close()


def test_this_machine_was_not_suspended_while_two_clocks_were_read() -> None:
    assert SystemClock().suspended_s() == pytest.approx(SystemClock().suspended_s(), abs=0.5)


def test_without_a_boot_id_leases_go_by_unix_time(tmp_path: Path) -> None:
    clock = SystemClock(boot_id=tmp_path / "none")
    assert clock.boot == ""
    assert clock.steady_s() == pytest.approx(clock.wall_s(), abs=5.0)


def test_a_file_of_another_release_or_program_is_refused(tmp_path: Path) -> None:
    SqliteQueue(tmp_path / "later", POLICY).close()
    _run(tmp_path / "later", f"PRAGMA user_version = {sqlite_schema.VERSION + 1}")
    with pytest.raises(QueueUnfit, match="later release"):
        SqliteQueue(tmp_path / "later", POLICY)
    _run(tmp_path / "theirs", "CREATE TABLE photos (id)")
    with pytest.raises(QueueUnfit, match="another program"):
        SqliteQueue(tmp_path / "theirs", POLICY)
    (tmp_path / "text").write_text("not a database, but long enough to be read as a header " * 20)
    with pytest.raises(QueueUnfit, match="not a SQLite file"):
        SqliteQueue(tmp_path / "text", POLICY)


def _run(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_file_that_is_locked_for_long_is_told_as_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SqliteQueue(tmp_path / "q", POLICY)
    connect = sqlite_schema.connect
    monkeypatch.setattr(sqlite_schema, "connect", lambda path: connect(path, busy_timeout_s=0.05))
    other = sqlite3.connect(tmp_path / "q", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(QueueUnavailable, match="locked"):
        queue.submit(request())
    with pytest.raises(QueueUnavailable):
        queue.ping()
    other.execute("ROLLBACK")
    queue.submit(request())
    other.close()
    queue.close()


def test_a_file_that_cannot_be_opened_is_told_as_unavailable(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    with pytest.raises(QueueUnavailable, match="cannot be opened"):
        SqliteQueue(tmp_path / "q", POLICY)


def test_another_process_that_ends_leaves_the_file_whole_to_one_that_opened_it_twice(tmp_path: Path) -> None:
    """A process that closes a file loses its locks on it, and SQLite then takes another process to be the last one."""
    first = SqliteQueue(tmp_path / "q", POLICY)
    kept = first.submit(request()).job.id
    second = SqliteQueue(tmp_path / "q", POLICY)
    come_and_go = "import sys; from pathlib import Path; from service.jobs.sqlite_queue import SqliteQueue; "
    come_and_go += "queue = SqliteQueue(Path(sys.argv[1])); queue.ping(); queue.close()"
    subprocess.run([sys.executable, "-c", come_and_go, str(tmp_path / "q")], check=True)
    assert (tmp_path / "q-wal").exists()
    later = first.submit(request()).job.id
    assert {job.id for job in second.find(JobFilter(), 10)} == {kept, later}
    first.close()
    second.close()


def test_many_openers_of_a_new_file_all_get_it(tmp_path: Path) -> None:
    queues: list[SqliteQueue] = []
    threads = [threading.Thread(target=lambda: queues.append(SqliteQueue(tmp_path / "q", POLICY))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queues) == 12
    for queue in queues:
        queue.close()


def test_polling_does_not_look_at_every_job(tmp_path: Path) -> None:
    SqliteQueue(tmp_path / "q", POLICY).close()
    connection = sqlite_schema.connect(tmp_path / "q")
    values = dict.fromkeys(("boot", "steady", "wall", "models", "priorities", "jobs", "keys", "owner", "limit"), "[]")
    for query in (
        *(sqlite_queue._NEXT, sqlite_queue._REFERENCES, sqlite_queue._NOTICES),
        *(sqlite_counts.WAITING, sqlite_counts.WAITING_OF_OWNER, sqlite_counts.RUNNING_AND_DEAD),
    ):
        plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
        assert not [step for step in plan if "TEMP B-TREE" in step or step == "SCAN jobs"], f"{query}: {plan}"
    connection.close()
