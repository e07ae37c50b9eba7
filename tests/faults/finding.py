"""What a fault did to the service: jobs, kills and outcomes of one trial in, a row of the table out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scale:
    """How much of everything; `TENTH` is what the test suite runs."""

    storm_jobs: int
    jobs_per_kill: int
    outage_jobs: int
    pause_s: float
    cancels: int
    same_key: int
    restarts: int
    stream_cuts: int
    max_attempts: int
    batch_items: int


FULL = Scale(200, 8, 60, 20.0, 200, 100, 6, 40, 3, 500)
TENTH = Scale(20, 5, 8, 3.0, 20, 100, 1, 6, 2, 60)


@dataclass
class Finding:
    """`broken` lists the promises that did not hold; `skipped` says why a trial could not be made here."""

    fault: str
    backend: str
    jobs: int = 0
    kills: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    worst_s: float | None = None
    bound_s: float | None = None
    broken: list[str] = field(default_factory=list)
    skipped: str | None = None

    def expect(self, holds: object, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)

    def took(self, seconds: Iterable[float], bound_s: float) -> None:
        """How long each recovery took, and how long it may."""
        self.worst_s, self.bound_s = max(seconds, default=None), bound_s
        if self.worst_s is not None and self.worst_s > bound_s:
            self.broken.append(f"a recovery took {self.worst_s:.1f} s; at most {bound_s:g} s are promised")

    @property
    def verdict(self) -> str:
        if self.broken:
            return "BROKEN: " + "; ".join(dict.fromkeys(self.broken))
        return f"skipped: {self.skipped}" if self.skipped else "held"


def table(findings: Sequence[Finding]) -> str:
    head = "| fault | backend | jobs | kills | outcomes | worst recovery (s) | bound (s) | verdict |"
    return "\n".join([head, "|---|---|--:|--:|---|--:|--:|---|", *map(_row, findings)]) + "\n"


def _row(found: Finding) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.outcomes.items())) or "–"
    worst = "–" if found.worst_s is None else f"{found.worst_s:.1f}"
    bound = "–" if found.bound_s is None else f"{found.bound_s:g}"
    cells = (found.fault, found.backend, str(found.jobs), str(found.kills), outcomes, worst, bound, found.verdict)
    return f"| {' | '.join(cells)} |"
