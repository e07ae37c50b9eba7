"""Every full-size network in; how its exported graphs compare with it, as a table and JSON, out.

Parity is that of `tal export`: tensors over several sizes, and the segments that serving makes of them. Times are of
one process, network and graph in turns, so that a busy machine slows both alike; their ratio is the figure.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from exporters import parity
from exporters.export import Format, export, open_session, plan
from exporters.recipe import Recipe

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DOCUMENT = ROOT / "docs" / "results.md"
FORMATS: tuple[Format, ...] = ("onnx", "torchscript")
MIB = 1024 * 1024
# Around 1 / 20, what each of 20 classes scores on average.
LEVELS = {"kind": "absolute", "values": [0.03, 0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.065, 0.07]}
CURVES = {"use": {"grouping": {"support": "point", "threshold": LEVELS}}}
# Two small streams of 1024 channels each, so that a detector of published width has something to stand on.
NARROW_CLIPS = {"network": "i3d", "preset": "rgb", "options": {"size_px": 32, "clip_frames": 2}}


@dataclass(frozen=True)
class Case:
    """`what` is exported and timed: a stream alone, or a detector on two streams; `sizes` are those that are timed."""

    name: str
    what: dict[str, Any]
    sizes: dict[str, int]
    is_detector: bool = False


CASES = (
    Case("I3D RGB, 16 × 224 px", {"network": "i3d", "preset": "rgb"}, {"N": 1}),
    Case("I3D flow, 16 × 224 px", {"network": "i3d", "preset": "flow"}, {"N": 1}),
    Case("I3D RGB, quarter width, 112 px", {"network": "i3d", "preset": "compact-rgb"}, {"N": 4}),
    Case("TSN ResNet-50 RGB, 224 px", {"network": "tsn", "preset": "resnet50-rgb"}, {"N": 4}),
    Case("TSN BN-Inception flow, 224 px", {"network": "tsn", "preset": "bn-inception-flow"}, {"N": 4}),
    Case("ActionFormer THUMOS, 2304 steps", {"network": "actionformer", "preset": "thumos"}, {"B": 1, "T": 2304}, True),
    Case("ActionFormer ActivityNet, 192 steps", {"network": "actionformer", "preset": "activitynet"}, {"B": 1}, True),
    Case("ActionFormer compact, 512 steps", {"network": "actionformer", "preset": "compact"}, {"B": 1, "T": 512}, True),
)


@dataclass(frozen=True)
class Result:
    network: str
    form: Format
    difference: float
    relative: float
    segments: int
    furthest_s: float
    size_bytes: int
    eager_ms: float
    graph_ms: float

    @property
    def ratio(self) -> float:
        return self.graph_ms / self.eager_ms


def recipe(case: Case) -> Recipe:
    document: dict[str, Any] = {
        "name": "measured",
        "licence": "Apache-2.0",
        "provenance": "random weights",
        "labels": ["action"] if case.what["preset"] == "activitynet" else [f"action {n}" for n in range(20)],
        "grid": {"stride_frames": 4, "tail": "pad"},
    }
    if case.is_detector:
        document["streams"] = [{**NARROW_CLIPS, "name": name} for name in ("first", "second")]
        document["detector"] = case.what
    else:
        document |= {"streams": [{**case.what, "name": "stream"}], "postprocessing": CURVES}
    return Recipe.model_validate_json(json.dumps(document))


def measure(case: Case, form: Format, rounds: int) -> Result:
    wanted = recipe(case)
    # The detector's graph is the last; a network that is timed alone has the only one.
    name, graph = list(plan(wanted, ROOT, form).graphs.items())[-1]
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(wanted, Path(folder) / "bundle", origin=ROOT, form=form)
        content = bundle.read_file(name)
    values = graph.examples(case.sizes)
    feeds = {port.name: value.numpy() for port, value in zip(graph.inputs, values, strict=True)}
    session = open_session(content, form, name)

    def eager() -> None:
        with torch.inference_mode():
            graph.module(*values)

    eager_ms, graph_ms = interleaved(eager, lambda: session.run(feeds), rounds)
    gaps, told = parity.tensor_gaps(graph, session), bundle.manifest.parity
    return Result(
        case.name,
        form,
        max(gap.difference for gap in gaps),
        max(gap.relative for gap in gaps),
        int(told["segments_compared"]),
        told["segments_s"],
        len(content),
        eager_ms,
        graph_ms,
    )


def interleaved(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median milliseconds of each, after one round to warm up."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for times_ms, run in zip(found, (first, second), strict=True):
            began = time.perf_counter()
            run()
            if number:
                times_ms.append((time.perf_counter() - began) * 1000)
    return statistics.median(found[0]), statistics.median(found[1])


def table(results: list[Result]) -> str:
    head = [
        "| network | format | max difference | relative | segments equal? | size | network | graph | ratio |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    rows = []
    for r in results:
        cells = [
            *(r.network, r.form, f"{r.difference:.1e}", f"{r.relative:.1e}"),
            *(f"yes, {r.segments} (≤ {r.furthest_s:.0e} s)", f"{r.size_bytes / MIB:.1f} MiB"),
            *(f"{r.eager_ms:.0f} ms", f"{r.graph_ms:.0f} ms", f"{r.ratio:.2f}"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*head, *rows])


def place(found: str) -> None:
    """Into docs/results.md, between the marks that stand there for it."""
    text = DOCUMENT.read_text()
    marked = r"(<!-- exports -->\n).*?(<!-- /exports -->)"
    DOCUMENT.write_text(re.sub(marked, lambda m: m[1] + found + "\n" + m[2], text, flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="networks whose name holds this; nothing is written then")
    chosen = parser.parse_args()
    results = []
    for case in CASES:
        if chosen.only not in case.name:
            continue
        for form in FORMATS:
            results.append(measure(case, form, chosen.rounds))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    if chosen.only:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "exports.json").write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    place(table(results))


if __name__ == "__main__":
    main()
