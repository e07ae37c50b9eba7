"""Trained runs in; a bundle of each, one service that holds them all, and what each answers on the same clip out.

    python -m benchmarks.served --folder build/marionette

Bundles take their features from the bundle that ships, whose features the detectors were trained on. The clip goes
through `POST /v1/detections` as a user's would.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import video_names
from benchmarks.detectors import RESULTS, Task
from benchmarks.studies import DETECTORS, Row
from exporters.export import export
from exporters.recipe import Recipe
from models.bundle import Bundle
from models.geometry import tiou
from service.client import Ask, Client
from service.commands.local_service import local_service
from service.localization import DetectOptions, Segment

SHIPPED = Path(__file__).parents[1] / "models" / "bundles" / "marionette"
CLIP = "marionette_test_0000"
LEAST_SCORE, FOUND_TIOU = 0.3, 0.5
HEAD = ("detector", "parity", "segments", "annotated actions found", "seconds", "best segment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"))
    folder: Path = parser.parse_args().folder.resolve()
    home = folder / "served"
    shutil.rmtree(home, ignore_errors=True)
    rows = [row for row in DETECTORS.rows if has_run(row, folder)]
    bundles = [made_bundle(row, folder, home / "models" / row.run) for row in rows]
    entry = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["database"][CLIP]
    os.environ["TAL_HOME"] = str(home)
    lines = told_before()
    with local_service({}) as url, Client(url) as client:
        clip = folder / "videos" / entry["file"]
        for row, bundle in zip(rows, bundles, strict=True):
            lines[row.name] = line(row, bundle, client, clip, entry)
    about = (
        f"One service, one bundle per detector, one clip ({CLIP}: {entry['duration']:.1f} s, "
        f"{len(entry['annotations'])} annotated actions), `POST /v1/detections`. Segments are those of at least "
        f"{LEAST_SCORE}, but the best one is told in any case; an action is found by a segment of its label with tIoU "
        f"{FOUND_TIOU} or more. Parity: the largest difference of graph and network, in units of the output's largest "
        "value."
    )
    head = [f"| {' | '.join(HEAD)} |", "|---|---:|---:|---:|---:|---|"]
    told = [lines[row.name] for row in DETECTORS.rows if row.name in lines]
    text = "\n".join(["# Every detector, served", "", about, "", *head, *told])
    print(text)
    (RESULTS / "served.md").write_text(text + "\n", encoding="utf-8")


def told_before() -> dict[str, str]:
    """The lines of the last table, by their first cell: what has no run in the folder keeps its own."""
    path = RESULTS / "served.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def has_run(row: Row, folder: Path) -> bool:
    return (folder / "runs" / Task(row, 0).name / "result.json").exists()


def made_bundle(row: Row, folder: Path, target: Path) -> Bundle:
    task = Task(row, 0)
    wanted = task.plan
    run = folder / "runs" / task.name
    trained = run if row.weights_of is None else folder / "runs" / f"{row.weights_of}-seed{task.seed}"
    names = None if wanted.video_scores is None else (folder / wanted.video_scores.path).with_suffix("")
    recipe = {
        "name": row.run,
        "licence": "Apache-2.0",
        "provenance": f"{row.name}, trained by this project on videos that it rendered itself",
        "labels": json.loads(((names or run) / "labels.json").read_text(encoding="utf-8")),
        "features_of": str(SHIPPED),
        "detector": {
            "network": wanted.detector.network,
            "preset": wanted.detector.preset,
            "options": wanted.detector.options,
            "weights": str(trained / "weights.safetensors"),
        },
        "metrics": str(run / "result.json"),
    }
    if names is not None and wanted.video_scores is not None:
        recipe["classifier"] = {
            **video_names.plan_of(names.name).classifier.model_dump(mode="json"),
            "weights": str(names / "weights.safetensors"),
            "fusion": wanted.video_scores.fusion.model_dump(mode="json"),
        }
    return export(Recipe.model_validate_json(json.dumps(recipe)), target, origin=run, say=print)


def line(row: Row, bundle: Bundle, client: Client, clip: Path, entry: Mapping[str, Any]) -> str:
    began = time.monotonic()
    found = client.detect(clip, Ask(model=row.run, options=DetectOptions(min_score=0.0)))
    seconds = time.monotonic() - began
    clear = [segment for segment in found.segments if segment.score >= LEAST_SCORE]
    best = max(found.segments, key=lambda segment: segment.score, default=None)
    gaps = [gap for name, gap in bundle.manifest.parity.items() if not name.startswith("segments")]
    cells = [
        row.name,
        f"{max(gaps):.1g}",
        str(len(clear)),
        f"{hits(clear, entry['annotations'])} of {len(entry['annotations'])}",
        f"{seconds:.1f}",
        "" if best is None else f"{best.label}, {best.start_s:.2f}–{best.end_s:.2f} s, {best.score:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def hits(found: Sequence[Segment], annotated: Sequence[Mapping[str, Any]]) -> int:
    """Annotated actions that some segment of their label overlaps enough."""
    overlaps = (
        tiou([action["segment"]], [[s.start_s, s.end_s] for s in found if s.label == action["label"]])
        for action in annotated
        if any(segment.label == action["label"] for segment in found)
    )
    return sum(bool(np.max(overlap) >= FOUND_TIOU) for overlap in overlaps)


if __name__ == "__main__":
    main()
