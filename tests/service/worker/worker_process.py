"""A folder and options in; a worker on it out, the real one but for a faulty model process and a queue with troubles.

The file `trouble` in the folder names what the queue does: `unavailable`, `defect` or `hang`; with `store` the store
finds no file until the trouble is over. Without it, all is well.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from service.errors import QueueUnavailable
from service.jobs.artifacts import Kind
from service.jobs.local_store import LocalStore
from service.jobs.queue import QueuePolicy
from service.jobs.sqlite_queue import SqliteQueue
from service.jobs.stores import StoreAddress
from service.pipeline.pipeline import Decoding
from service.runtime.onnx_session import OnnxOptions
from service.worker import presence
from service.worker.child import ExecutorSetup
from service.worker.job_run import Limits
from service.worker.supervisor import Supervisor, WorkerSetup
from tests.service.worker import faulty_child

LEASE_S = 1.0
POLICY = QueuePolicy(lease_s=LEASE_S, retry_delay_s=0.05, worker_silence_s=3.0)
MIB = 2**20


class TroubledQueue:
    def __init__(self, queue: SqliteQueue, trouble: Path) -> None:
        self.policy = queue.policy
        self._queue, self._trouble = queue, trouble

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            while (kind := self._kind()) == "hang":
                time.sleep(0.02)
            if kind == "unavailable":
                raise QueueUnavailable("no answer")
            if kind == "defect":
                raise LookupError("a defect of the queue")
            return getattr(self._queue, name)(*args)

        return call

    def _kind(self) -> str:
        return self._trouble.read_text() if self._trouble.exists() else ""


class SlowStore(LocalStore):
    def path(self, kind: Kind, key: str) -> Path:
        trouble = self.folder.parent / "trouble"
        while trouble.exists() and trouble.read_text() == "store":
            time.sleep(0.02)
        return super().path(kind, key)


def find_models(folder: Path) -> ExecutorSetup:
    return ExecutorSetup(
        models={model.name: str(model) for model in sorted((folder / "models").iterdir())},
        runtime=OnnxOptions(device="cpu", threads=1),
        decoding=Decoding("pyav"),
        store=StoreAddress(str(folder / "store")),
    )


def main(
    folder: Path,
    id: str,  # noqa: A002
    stall_s: float = 60.0,
    memory_mib: int = 0,
    drain_s: float = 30.0,
    longest_turn_s: float = 60.0,
) -> int:
    presence.LONGEST_TURN_S = longest_turn_s
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    queue = TroubledQueue(SqliteQueue(folder / "queue.db", POLICY), folder / "trouble")
    command = (*faulty_child.COMMAND, str(folder / "runs"))
    limits = Limits(stall_s, memory_mib * MIB)
    setup = WorkerSetup(id, limits=limits, drain_s=drain_s, metrics_port=0, command=command)
    return Supervisor(queue, SlowStore(folder / "store", 0), setup, lambda: find_models(folder)).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), **json.loads(sys.argv[2])))
