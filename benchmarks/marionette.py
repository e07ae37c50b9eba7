"""A folder with features in; how well detectors do on it, over seeds and against what sees less, out.

    make bench-marionette

Every run is a folder that goes on where it was, so a second call costs only what is missing. Ablations get the same
detector, plan and budget as the model that ships, and see less: one frame at a time, or only how much moves.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from models.geometry import tiou
from training import plan as plans
from training import run as runs
from training.clip_frames import FrameForm, FrameStore, video_files
from training.evaluation.annotations import read_ground_truth
from training.marionette.benchmark import SUBSETS

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)
TIOUS = ("0.3", "0.4", "0.5", "0.6", "0.7")
CLIP_FRAMES, STRIDE_FRAMES, FPS, ENERGY_PX = 8, 2, 10, 112
ENERGY: Mapping[str, Any] = {
    "folder": "energy",
    "stride_frames": STRIDE_FRAMES,
    "offset_frames": CLIP_FRAMES / 2,
    "clip_frames": CLIP_FRAMES,
    "fps": FPS,
}
# Name in the table, features, and the runs' folder.
CONTENDERS: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    ("ActionFormer on I3D (ships)", {"folder": "features-i3d-rgb"}, "actionformer"),
    ("ActionFormer on TSN, single frames", {"folder": "features-tsn-rgb"}, "actionformer-tsn-rgb"),
    ("ActionFormer on motion energy", ENERGY, "actionformer-energy"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"))
    folder: Path = parser.parse_args().folder
    missing = [
        str(folder / features["folder"])
        for _, features, _ in CONTENDERS[:2]
        if not (folder / features["folder"]).is_dir()
    ]
    if missing:
        raise SystemExit(f"{', '.join(missing)} are not there: make bench-marionette makes them")
    write_energy(folder)
    rows = [_row(folder, *contender) for contender in CONTENDERS]
    text = "\n".join([*_head(), *(_line(row) for row in rows)]) + "\n"
    print(text)
    text += "\n" + "\n".join(_confusion(folder)) + "\n"
    (RESULTS / "marionette.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "marionette.md").write_text("# Detectors on Marionette\n\n" + text, encoding="utf-8")


def write_energy(folder: Path) -> None:
    """Per snippet, how much each frame of its clip differs from the one before, averaged over the picture."""
    (folder / "energy").mkdir(exist_ok=True)
    for subset in SUBSETS.values():
        names = read_ground_truth(folder / "annotations.json", subset).videos
        missing = [name for name in names if not (folder / "energy" / f"{name}.npy").exists()]
        store = FrameStore(video_files(folder / "videos", missing), folder / "frames", FrameForm(FPS, ENERGY_PX, None))
        store.prepare(workers=2)
        for name in missing:
            np.save(folder / "energy" / f"{name}.npy", _energy(store.frames(name)))


def _energy(frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    moved = [np.abs(later.astype(np.int16) - earlier).mean() for earlier, later in pairwise(frames)]
    moved += [0.0] * max(0, CLIP_FRAMES - 1 - len(moved))
    count = 1 + max(0, len(frames) - CLIP_FRAMES) // STRIDE_FRAMES
    rows = [moved[first : first + CLIP_FRAMES - 1] for first in range(0, count * STRIDE_FRAMES, STRIDE_FRAMES)]
    return np.log1p(np.asarray(rows, np.float32))


def _row(folder: Path, name: str, features: Mapping[str, Any], run: str) -> dict[str, Any]:
    found = list(_trained(folder, features, run))
    averages = [document["average"] for document in found]
    return {
        "name": name,
        "mAP": {tiou: statistics.mean(document["mAP"][tiou] for document in found) for tiou in TIOUS},
        "average": statistics.mean(averages),
        "spread": statistics.stdev(averages),
        "averages": averages,
        "seconds": statistics.mean(document["seconds"] for document in found),
    }


def _trained(folder: Path, features: Mapping[str, Any], run: str) -> Iterator[Mapping[str, Any]]:
    document = json.loads((folder / "actionformer.json").read_text(encoding="utf-8"))
    for seed in SEEDS:
        target = folder / (run if seed == 0 else f"{run}-seed{seed}")
        plan = plans.parse({**document, "features": dict(features)}, {"seed": seed}, run)
        # A finished run is only judged again; one of another plan is refused.
        yield runs.run(plan, folder, target).document


def _confusion(folder: Path) -> list[str]:
    """For every annotated instance of the test split, the label of the answer that overlaps it best (at least by half,
    scored at least 0.2); rows are the truth, columns the answers, and the last column those without any."""
    truth = read_ground_truth(folder / "annotations.json", SUBSETS["test"])
    results = json.loads((folder / "actionformer" / runs.PREDICTIONS).read_text(encoding="utf-8"))["results"]
    counts = np.zeros((len(truth.labels), len(truth.labels) + 1), int)
    for video, segment_s, label in zip(truth.video_indices, truth.segments_s, truth.label_indices, strict=True):
        answers = [one for one in results[truth.videos[video]] if one["score"] >= 0.2]
        overlaps = tiou([segment_s], [one["segment"] for one in answers] or np.empty((0, 2)))[0]
        best = int(overlaps.argmax()) if len(overlaps) and overlaps.max() >= 0.5 else -1
        counts[label, truth.labels.index(answers[best]["label"]) if best >= 0 else -1] += 1
    columns = [*truth.labels, "none"]
    head = [f"| truth \\ answer | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    rows = zip(truth.labels, counts, strict=True)
    return head + [f"| {label} | {' | '.join(str(count) if count else '' for count in row)} |" for label, row in rows]


def _head() -> list[str]:
    columns = ["detector", *(f"mAP@{tiou}" for tiou in TIOUS), "average", "spread", "training, s"]
    return [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]


def _line(row: Mapping[str, Any]) -> str:
    figures = [*(row["mAP"][tiou] for tiou in TIOUS), row["average"], row["spread"]]
    cells = [row["name"], *(f"{100 * figure:.2f}" for figure in figures), f"{row['seconds']:.0f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
