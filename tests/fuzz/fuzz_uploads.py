"""Uploads that break off, lie and talk nonsense in; a table of what a real server made of them out. Status 1 if hurt.

    python -m tests.fuzz.fuzz_uploads --seed 0

Whatever comes, the API lives on and answers with no failure of its own, nothing of a broken upload stays in the store,
every video there has the bytes that its name says, and only a request that came whole is a job.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import random
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from service.settings import MIB
from tests.faults.deployment import Deployment, wait_until
from tests.fuzz.upload_cases import KINDS
from tests.fuzz.upload_requests import Case, Clips, sound
from tests.service.pipeline.video_samples import Sample, steady, write

LARGE_BYTES = 1_300_000
ANSWER_S, MOMENT_S, BEGUN_S = 30.0, 0.3, 0.05
GROWTH_BYTES = 64 * MIB
UNAVAILABLE = {503, 507}
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([2-9]\d\d) ")
GONE = (ConnectionResetError, BrokenPipeError)


@dataclass
class Report:
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    broken_files: int = 0
    peak_bytes: int = 0
    first_bytes: int = 0
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        return sum(counts.total() for counts in self.outcomes.values())

    def table(self) -> str:
        columns = sorted({name for counts in self.outcomes.values() for name in counts})
        lines = ["| kind | " + " | ".join(columns) + " | all |", "|---|" + "---:|" * (len(columns) + 1)]
        rows = {**self.outcomes, "**all**": sum(self.outcomes.values(), Counter())}
        for kind, counts in rows.items():
            lines.append(f"| {kind} | " + " | ".join(str(counts[one]) for one in columns) + f" | {counts.total()} |")
        return "\n".join(lines)


class Trial:
    """A server under fuzz: requests in, what is wrong with it afterwards into the report."""

    def __init__(self, service: Deployment, report: Report) -> None:
        self._service, self._report = service, report
        self._port = int(service.url().rpartition(":")[2])
        self._process = psutil.Process(service.members["api"].pid)
        self._http = httpx.Client(base_url=service.url(), timeout=ANSWER_S)
        self._videos: set[str] = set()
        body = write(service.folder / "clip.mp4", Sample(steady(24))).read_bytes()
        filler = struct.pack(">I4s", LARGE_BYTES - len(body), b"free").ljust(LARGE_BYTES - len(body), b"\7")
        self.clips = Clips(body, body + filler)

    def run(self, kind: str, cases: list[Case]) -> None:
        jobs, counts = self._jobs(), self._report.outcomes.setdefault(kind, Counter())
        accepted = unknown = 0
        for number, case in enumerate(cases):
            statuses = self._send(case)
            counts[str(statuses[0]) if statuses else "no answer"] += 1
            accepted += statuses.count(202)
            if case.accepted is not False:
                unknown += max(0, case.data.count(b"POST ") - len(statuses))
            for finding in (*wrong_with(case, statuses), *self._left()):
                self._tell(f"{kind}, case {number} ({case.data[:300]!r}…, {len(case.data)} bytes): {finding}")
        self._settle()
        if not accepted <= self._jobs() - jobs <= accepted + unknown:
            self._tell(
                f"{kind}: {accepted} were answered 202, {unknown} unanswered, {self._jobs() - jobs} jobs are new"
            )
        whole = any(case.accepted is not False or case.ending == "wait" for case in cases)
        for finding in self._wrong_videos(new_ones=whole):
            self._tell(f"{kind}: {finding}")
        if self._send(sound(self.clips)) != [202]:
            self._tell(f"{kind}: a sound upload is refused afterwards")

    def finish(self) -> None:
        self._http.close()
        report = self._report
        if report.peak_bytes > report.first_bytes + GROWTH_BYTES:
            self._tell(f"the API grew from {report.first_bytes} to {report.peak_bytes} bytes")
        log = (self._service.folder / f"{self._service.members['api'].name}.log").read_text(errors="replace")
        if at := log.find("Traceback") + 1:
            self._tell(f"the API's log has a traceback: {log[at - 500 : at + 3000]}")

    def warm_up(self) -> None:
        for _ in range(20):
            self._send(sound(self.clips))
        self._settle()
        self._wrong_videos(new_ones=True)
        self._report.first_bytes = self._process.memory_info().rss

    def _send(self, case: Case) -> list[int]:
        with socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S) as connection:
            try:
                connection.sendall(case.data)
                if case.ending == "close":
                    connection.shutdown(socket.SHUT_WR)
            except GONE:
                pass  # refused before it was all sent; the answer may be there all the same
            if case.ending == "reset":
                self._report.broken_files += self._receiving()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return []
            answer = _received(connection, MOMENT_S if case.ending == "leave" else ANSWER_S)
        return [int(status) for status in STATUS_LINE.findall(answer)]

    def _receiving(self) -> bool:
        """Whether a file has been begun: a reset takes back what the server has not read yet, so it gets a moment."""
        with contextlib.suppress(TimeoutError):
            return bool(wait_until(self._service.leftovers.incoming, BEGUN_S))
        return False

    def _left(self) -> list[str]:
        self._report.peak_bytes = max(self._report.peak_bytes, self._process.memory_info().rss)
        try:
            wait_until(lambda: not self._service.leftovers.incoming(), 10.0)
        except TimeoutError:
            return [f"left behind: {self._service.leftovers.incoming()}"]
        return []

    def _settle(self) -> None:
        """Until the server has ended all that it was asked, but for this question."""
        wait_until(lambda: "tal_http_inflight 1.0" in self._http.get("/metrics").text, ANSWER_S)

    def _jobs(self) -> int:
        return sum(self._service.queue.stats().queued.values())

    def _wrong_videos(self, new_ones: bool) -> list[str]:
        files = {path.name: path for path in (self._service.settings.store_folder / "video").glob("??/??/*")}
        new = files.keys() - self._videos
        self._videos |= new
        wrong = [f"{key} has other bytes" for key in new if hashlib.sha256(files[key].read_bytes()).hexdigest() != key]
        return wrong + ([] if new_ones else [f"{key} was stored of a request that came in part" for key in new])

    def _tell(self, finding: str) -> None:
        print(finding, file=sys.stderr, flush=True)
        self._report.violations.append(finding)


def wrong_with(case: Case, statuses: list[int]) -> list[str]:
    found = [f"answered with {one}" for one in statuses if one >= 500 and one not in UNAVAILABLE]
    if case.accepted is False and any(200 <= one < 300 for one in statuses[:1]):
        found.append(f"accepted with {statuses[0]}")
    if case.accepted and statuses[:1] != [202]:
        found.append(f"a sound request was answered with {statuses}")
    if case.ending == "wait" and not statuses:
        found.append("no answer")
    return found


def _received(connection: socket.socket, patience_s: float) -> bytes:
    """Everything until the server ends the connection; at most so long, then our half is closed first."""
    answer, ends_at_s, closed = b"", time.monotonic() + patience_s, False
    with contextlib.suppress(*GONE):
        while True:
            connection.settimeout(max(0.01, ends_at_s - time.monotonic()))
            try:
                if not (block := connection.recv(65536)):
                    break
                answer += block
            except TimeoutError:
                if closed:
                    break
                closed, ends_at_s = True, time.monotonic() + ANSWER_S
                connection.shutdown(socket.SHUT_WR)
    return answer


def fuzz(folder: Path, seed: int, share: float) -> Report:
    """`share` is the part of each kind's cases, drawn by chance."""
    report, chance, began_s = Report(), random.Random(seed), time.monotonic()
    with Deployment(folder, max_queued_jobs=1_000_000) as service:
        service.start(workers=0)
        trial = Trial(service, report)
        trial.warm_up()
        for kind, make in KINDS.items():
            cases = list(make(trial.clips, chance))
            trial.run(kind, chance.sample(cases, math.ceil(share * len(cases))))
        trial.finish()
    report.seconds = time.monotonic() - began_s
    return report


def written(report: Report, seed: int) -> str:
    grown_mib = (report.peak_bytes - report.first_bytes) / MIB
    return f"""# Broken and lying uploads

`python -m tests.fuzz.fuzz_uploads --seed {seed}`: {report.cases} connections to `tal serve`, the first answer to each.
No answer: the client left, or had not sent a whole request.

{report.table()}

Failures of the service's own, files left, wrong videos, jobs that nobody asked for: {len(report.violations)}.
Of the connections that were reset, {report.broken_files} had a file begun in the store.
The API's memory was at most {grown_mib:.0f} MiB above that of sound uploads. {report.seconds:.0f} s in all.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="the part of the cases to send")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(Path(folder), options.seed, options.share)
    text = written(report, options.seed)
    print(text)
    if options.output:
        options.output.write_text(text)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
