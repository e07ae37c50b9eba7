"""A trained AMNet in; how well its mask tells action from background on the test split, and a picture of it, out.

    python -m benchmarks.amnet_mask --folder build/marionette

The figure is the area under the ROC curve of the mask as a classifier of snippets: the chance that a snippet inside an
action is masked higher than one outside; 0.5 is a guess. The picture shows a few videos, annotated actions behind.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from models.detectors.amnet import Amnet, components_of
from models.manifest import Resized, Windowing
from service.pipeline import windows
from service.runtime.feature_ops import HostOps
from service.runtime.session import to_numpy
from training import checkpoints, detector_job, loop, run_folder
from training import plan as plans
from training import run as runs
from training.detector_job import Split

RESULTS = Path(__file__).parent / "results"
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskedVideo:
    """Per snippet: its time, the mask, and whether it stands inside an annotated action (segments_s (G, 2))."""

    name: str
    times_s: Floats
    mask: Floats
    acting: Bools
    segments_s: Floats


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"), help="what the plan's paths lie in")
    parser.add_argument("--run", default="amnet", help="the run's folder in it, as `tal train` left it")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--videos", type=int, default=4, help="how many are drawn")
    chosen = parser.parse_args(arguments)
    found = masks_of(*trained(chosen.folder, chosen.run))
    document = summary(found)
    print(json.dumps(document, indent=1))
    chosen.results.mkdir(parents=True, exist_ok=True)
    (chosen.results / "amnet_mask.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw([video for video in found if video.acting.any()][: chosen.videos], chosen.results / "amnet_mask.svg")


def trained(folder: Path, run: str) -> tuple[Amnet, Windowing, Split]:
    """The network with the run's final weights, how it sees videos, and the split that the run is judged on."""
    document = json.loads((folder / run / run_folder.PLAN).read_text(encoding="utf-8"))
    prepared = runs.prepare(plans.parse(document, origin=run), folder)
    network = prepared.subject.network
    if not isinstance(network, Amnet) or network.masking is None:
        what = document["detector"]["network"]
        raise SystemExit(f"{folder / run}: a run of {what}, which has no mask; that of an AMNet with one is needed")
    network.load_state_dict(checkpoints.read(folder / run / loop.WEIGHTS)[0])
    return network.eval(), detector_job.windowing_of(prepared.subject), prepared.test


def masks_of(network: Amnet, windowing: Windowing, split: Split) -> list[MaskedVideo]:
    truth = split.ground_truth
    found = []
    for index, name in enumerate(truth.videos):
        sequence = split.load(name)
        assert sequence.values is not None  # `prepare` refuses features that hold none
        mask = mask_over(network, np.asarray(to_numpy(sequence.values), np.float32), windowing)
        grid = windows.window_grid(sequence.grid, sequence.num_snippets, sequence.clip_span_frames, windowing)
        segments_s = truth.segments_s[truth.video_indices == index]
        acting = acting_at(grid.to_positions(segments_s), len(mask))
        found.append(MaskedVideo(name, grid.to_seconds(np.arange(len(mask))), mask, acting, segments_s))
    return found


def mask_over(network: Amnet, features: NDArray[np.float32], windowing: Windowing) -> Floats:
    """Features (T, C) of a video → its mask, step by step, as serving would have it."""
    layout = windows.plan(len(features), windowing)
    parts = []
    with torch.inference_mode():
        for batch in windows.batches(features, layout, HostOps(), 1):
            logits = network(torch.from_numpy(to_numpy(batch.features)), torch.from_numpy(batch.mask)).mask_logits
            parts.append(components_of(logits, network.config.mask_form)[:, 0, :, None].numpy())
    steps = windowing.length if isinstance(windowing, Resized) else len(features)
    return windows.merge_activations(parts, layout, steps)[:, 0]


def acting_at(spans: Floats, steps: int) -> Bools:
    """Spans (G, 2) in steps → which steps stand in any of them."""
    positions = np.arange(steps)[:, None]
    inside: Bools = ((positions >= spans[:, 0]) & (positions <= spans[:, 1])).any(axis=1)
    return inside


def summary(found: Sequence[MaskedVideo]) -> dict[str, Any]:
    mask, acting = (np.concatenate([getattr(video, part) for video in found]) for part in ("mask", "acting"))
    areas = [area_under_roc(video.mask, video.acting) for video in found if 0 < video.acting.mean() < 1]
    return {
        "videos": len(found),
        "snippets": len(mask),
        "action_share": float(acting.mean()),
        "area_under_roc": area_under_roc(mask, acting),
        "mean_area_by_video": float(np.mean(areas)),
        "mean_mask_in_action": float(mask[acting].mean()),
        "mean_mask_beside_action": float(mask[~acting].mean()),
    }


def area_under_roc(scores: Floats, positive: Bools) -> float:
    """The chance that a positive one scores higher than a negative one; a tie counts half."""
    if positive.all() or not positive.any():
        raise ValueError(f"{int(positive.sum())} of {len(positive)} snippets are positive; both kinds are needed")
    beside = np.sort(scores[~positive])
    below, up_to = (np.searchsorted(beside, scores[positive], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(beside))


def draw(found: Sequence[MaskedVideo], path: Path) -> None:
    """One row per video: the mask over time, annotated actions as bars behind it."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.name  # the same picture is the same file
    figure, rows = plt.subplots(len(found), figsize=(10, 1.6 * len(found)), squeeze=False, layout="constrained")
    for video, axes in zip(found, rows[:, 0], strict=True):
        for start_s, end_s in video.segments_s:
            axes.axvspan(start_s, end_s, color="tab:orange", alpha=0.35, linewidth=0)
        axes.plot(video.times_s, video.mask, color="tab:blue", linewidth=1)
        axes.set(ylim=(0, 1), xlim=(0, video.times_s[-1]), ylabel="mask")
        axes.set_title(video.name, fontsize="small", loc="left")
    rows[-1, 0].set_xlabel("seconds (orange: annotated action)")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
