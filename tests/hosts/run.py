"""Root in; the service on two hosts without a shared folder, put through cut cables, and a table of that out.

    python -m tests.hosts.run --output benchmarks/results/hosts.md        as `make hosts` does

Exits with 1 if a promise did not hold. Where there may be no network namespaces it says so, and that is no failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.hosts.namespaces import Network, RefusedError
from tests.hosts.site import LEASE_S, MACHINES, Site, open_site
from tests.hosts.trials import TRIALS, Row, Trial, orderly_end


def try_all(trials: Sequence[Trial] = TRIALS) -> Iterator[Row]:
    """Raises RefusedError before anything is started."""
    if shutil.which("redis-server") is None:
        raise RefusedError("there is no redis-server (make system-packages)")
    with tempfile.TemporaryDirectory(prefix="tal-hosts-") as folder, Network(*MACHINES) as network:
        with open_site(network, Path(folder)) as site:
            for trial in (*trials, orderly_end):
                yield from _timed(trial, site)
        running = network.processes()
    yield _what_is_left(network, running, Path(folder))


def _timed(trial: Trial, site: Site) -> Iterator[Row]:
    """One that cannot be made to its end is a promise broken, and the next one is made all the same."""
    began_s = time.monotonic()
    try:
        for row in trial(site):
            row.seconds = time.monotonic() - began_s
            yield row
            began_s = time.monotonic()
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        yield Row(trial.__name__, "redis", broken=[f"the trial broke off: {error!r}"[:300]])
    finally:
        for name in MACHINES:
            site.network.mend(name)


def _what_is_left(network: Network, running: Sequence[int], folder: Path) -> Row:
    row = Row("what is left", "redis")
    row.broken += [f"process {pid}" for pid in running] + network.left() + [str(folder)] * folder.exists()
    row.seen.append("no process, namespace, cable or folder" if not row.broken else "more than nothing")
    return row


def table(rows: Sequence[Row]) -> str:
    head = "| trial | jobs | outcomes | seconds | what was seen | verdict |\n|---|--:|---|--:|---|---|\n"
    return head + "".join(map(_line, rows))


def _line(row: Row) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(row.outcomes.items())) or "–"
    cells = (row.fault, str(row.jobs or "–"), outcomes, f"{row.seconds:.0f}", "; ".join(row.seen), row.verdict)
    return f"| {' | '.join(cells)} |\n"


def report(rows: Sequence[Row], seconds: float) -> str:
    told = f"Written by `make hosts` ({seconds / 60:.1f} minutes on {os.cpu_count()} cores, lease {LEASE_S:g} s)"
    return f"# Two hosts\n\n{told}; docs/hosts.md says what is tried.\n\n{table(rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends all that was started, too
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # nobody stands between these machines
    rows: list[Row] = []
    began_s = time.monotonic()
    try:
        for row in try_all():
            rows.append(row)
            print(
                f"{row.fault}: {row.verdict}; {'; '.join(row.seen)} ({row.seconds:.0f} s)", file=sys.stderr, flush=True
            )
    except RefusedError as refused:
        print(f"skipped: {refused}")
        return 0
    if output:
        output.write_text(report(rows, time.monotonic() - began_s), "utf-8")
    print(table(rows))
    return 1 if any(row.broken for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
