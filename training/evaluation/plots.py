"""A diagnosis in, three PNG plots out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import InvalidOptions
from training.evaluation.diagnosis import Bucket, Diagnosis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"coverage": "Coverage", "length_s": "Length (s)", "instances": "Instances per video"}


def write_plots(diagnosis: Diagnosis, folder: Path) -> tuple[Path, ...]:
    """false_positives.png, sensitivity.png and false_negatives.png in the folder, which is made if need be."""
    figures = {
        "false_positives": _false_positives(diagnosis),
        "sensitivity": _by_bucket(diagnosis, "normalized_map", "average mAP$_N$ (%)", diagnosis.normalized_map),
        "false_negatives": _by_bucket(diagnosis, "missed", "instances missed (%)", diagnosis.missed),
    }
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=120)
    except OSError as error:
        raise InvalidOptions(f"plots cannot be written to {folder}: {error.strerror or error}") from error
    return tuple(paths)


def _new_figure(width_in: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (only plots need it)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise InvalidOptions("drawing plots needs matplotlib: pip install '.[train]'") from None
    figure = Figure(figsize=(width_in, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the machine's settings say
    return figure


def _false_positives(diagnosis: Diagnosis) -> Figure:
    """The kinds in every slice of predictions, stacked, and what removing each kind of error would gain."""
    figure = _new_figure(10)
    shares, gains = figure.subplots(1, 2, width_ratios=[2, 1])
    names = [f"{place + 1}G" for place in range(len(diagnosis.profile))]
    below = [0.0] * len(names)
    for kind in diagnosis.profile[0] if diagnosis.profile else ():
        heights = [100 * slice_[kind] for slice_ in diagnosis.profile]
        shares.bar(names, heights, bottom=below, label=kind)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    shares.set(title="False-positive profile", xlabel="top predictions", ylabel="share (%)")
    if names:
        figure.legend(fontsize="small", loc="outside lower left", ncols=len(diagnosis.profile[0]))
    bars = gains.bar(list(diagnosis.gains), [100 * gain for gain in diagnosis.gains.values()])
    gains.bar_label(bars, fmt="%.1f")
    gains.margins(y=0.1)
    gains.set(title="Removing one kind of error", ylabel="gain of average mAP$_N$ (points)")
    gains.set_xticks(range(len(diagnosis.gains)), list(diagnosis.gains), rotation=30, ha="right", fontsize="small")
    return figure


def _by_bucket(diagnosis: Diagnosis, field: str, label: str, overall: float) -> Figure:
    """A field of all buckets that hold instances, a panel per characteristic."""
    figure = _new_figure(10)
    panels = figure.subplots(1, len(diagnosis.buckets), sharey=True)
    for panel, (name, buckets) in zip(panels, diagnosis.buckets.items(), strict=True):
        _bars(panel, [bucket for bucket in buckets if bucket.instances], field)
        panel.axhline(100 * overall, color="black", linestyle="dashed", linewidth=1)
        panel.set_title(TITLES[name])
    panels[0].set_ylabel(label)
    panels[0].set_ylim(0, 105)
    return figure


def _bars(panel: Axes, buckets: list[Bucket], field: str) -> None:
    if not buckets:
        panel.text(0.5, 0.5, "not known", ha="center", transform=panel.transAxes)
        panel.set_xticks([])
        return
    bars = panel.bar([_range(bucket) for bucket in buckets], [100 * getattr(bucket, field) for bucket in buckets])
    panel.bar_label(bars, fmt="%.1f", fontsize="small")
    panel.tick_params(axis="x", labelsize="small")


def _range(bucket: Bucket) -> str:
    reach = f"> {bucket.above:g}" if bucket.up_to == float("inf") else f"{bucket.above:g}-{bucket.up_to:g}"
    return f"{bucket.name}\n{reach}"
