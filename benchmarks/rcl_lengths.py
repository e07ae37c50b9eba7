"""Finished runs of RCL on Marionette in; how well each sampling finds short and long actions out.

python -m benchmarks.rcl_lengths --folder build/marionette
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.detectors import RESULTS, Task
from benchmarks.studies import RCL_SAMPLING
from training.detector_job import ANY_CLASS, LENIENT, for_labels
from training.evaluation.annotations import parse_predictions
from training.evaluation.diagnosis import INF, Borders, Bucket, diagnose
from training.evaluation.protocols import PROTOCOLS
from training.run import PREDICTIONS, data_of

LENGTHS_S = (0.0, 1.0, 2.0, 4.0, 8.0, INF)
BORDERS = Borders((0, 1), LENGTHS_S, (0, INF))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"))
    text = table(parser.parse_args().folder.resolve())
    print(text)
    (RESULTS / "rcl_lengths.md").write_text(text, encoding="utf-8")


def table(folder: Path) -> str:
    first = Task(RCL_SAMPLING.rows[0], 0).plan
    truth = for_labels(data_of(first, folder).splits[first.dataset.judged_on].ground_truth, (ANY_CLASS,))
    protocol = PROTOCOLS[first.protocol]
    about = (
        "Spans of any action on Marionette's test videos, by length of the action in seconds: mAP_N (the mAP as if "
        "every length had the average number of actions; mean over tIoU), and the share of actions that no span finds. "
        "Runs of the table in [detectors.md](detectors.md); means where there are several seeds."
    )
    lines = []
    for row in RCL_SAMPLING.rows:
        tasks = [Task(row, seed) for seed in row.seeds]
        paths = [folder / "runs" / task.name / PREDICTIONS for task in tasks]
        found = [
            diagnose(truth, parse_predictions(json.loads(path.read_bytes()), truth, LENIENT), protocol, BORDERS)
            for path in paths
            if path.exists()
        ]
        if found:
            cells = [cell(buckets) for buckets in zip(*(one.buckets["length_s"] for one in found), strict=True)]
            lines.append(f"| {row.name} | {len(found)} | {' | '.join(cells)} |")
            counts = [str(bucket.instances) for bucket in found[0].buckets["length_s"]]
    spans = [f"over {low:g}" + (f" to {high:g}" if high < INF else "") for low, high in pairwise(LENGTHS_S)]
    head = f"| | seeds | {' | '.join(spans)} |"
    rule = f"|---|---:|{'---:|' * (len(LENGTHS_S) - 1)}"
    actions = f"| actions | | {' | '.join(counts)} |"
    return "\n".join(["# RCL by length of action", "", about, "", head, rule, actions, *lines]) + "\n"


def cell(buckets: Sequence[Bucket]) -> str:
    shares = [(bucket.normalized_map, bucket.missed) for bucket in buckets]
    known = [(found, missed) for found, missed in shares if found is not None and missed is not None]
    if not known:
        return "-"
    found, missed = (100 * statistics.mean(values) for values in zip(*known, strict=True))
    return f"{found:.1f}, {missed:.1f} missed"


if __name__ == "__main__":
    main()
