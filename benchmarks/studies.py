"""What is compared on Marionette, study by study: which runs, with which settings, and what the papers found.

A run is its network's Marionette preset with `changes`; its first row is what a study's other rows are held against.
`published` are the papers' figures, on their data, in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import still_parts, two_streams

EVERY_SEED = (0, 1, 2)
ONE_SEED = (0,)


@dataclass(frozen=True)
class Row:
    """`run` names the folder; rows of several studies may be the same run. `weights_of`: another run, whose weights are
    judged as this row says; nothing is trained for it."""

    name: str
    network: str
    run: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ONE_SEED
    published: float | None = None
    weights_of: str | None = None


@dataclass(frozen=True)
class Study:
    """`about` says what is compared, and what `published` is a figure of. `costs`: the table tells multiply-adds of a
    window, too. `by_class`: average precisions of each class in place of means over classes."""

    name: str
    title: str
    about: str
    rows: tuple[Row, ...]
    costs: bool = False
    by_class: bool = False


def _detector(network: str, name: str) -> Row:
    return Row(name, network, network, seeds=EVERY_SEED)


def _asl(name: str, run: str, published: float | None, seeds: tuple[int, ...] = ONE_SEED, **loss: bool) -> Row:
    return Row(name, "asl", run, {"loss": {"options": loss}} if loss else {}, seeds, published)


def _amnet(name: str, run: str, published: float | None, seeds: tuple[int, ...] = ONE_SEED, **options: Any) -> Row:
    return Row(name, "amnet", run, {"detector": {"options": options}} if options else {}, seeds, published)


def _react(name: str, run: str, seeds: tuple[int, ...] = ONE_SEED, **changes: Any) -> Row:
    """Validated every second epoch, for the curves of `react_curves.py`."""
    return Row(name, "react", run, {"training": {"validate_every_epochs": 2}, **changes}, seeds)


def _named(name: str, run: str, *, scores: str = "attention", rule: str = "product", classes: int = 12) -> Row:
    """A detector of any action, whose spans a classifier of whole videos names (`video_names.py`)."""
    told = {"format": "cuhk", "path": f"names/{scores}.json", "fusion": {"rule": rule, "classes": classes}}
    ending = "" if (scores, rule, classes) == ("attention", "product", 12) else f"-{scores}-{rule}-{classes}"
    plain = PROPOSALS_BY_RUN[run]
    changes = {**plain.changes, "video_scores": told}
    return Row(name, plain.network, f"{run}-named{ending}", changes, EVERY_SEED, weights_of=run)


def _rcl(name: str, run: str, published: float | None = None, seeds: tuple[int, ...] = ONE_SEED, **options: Any) -> Row:
    return Row(name, "rcl", run, {"detector": {"options": options}} if options else {}, seeds, published)


def _rcl_steps(steps: int, published: float) -> Row:
    changes = {"detector": {"options": {"inference_iterations": steps}}}
    return Row(f"{steps}", "rcl", f"rcl-{steps}-steps", changes, EVERY_SEED, published, weights_of="rcl")


def _cmcs(name: str, run: str, published: float | None, seeds: tuple[int, ...] = ONE_SEED, **changes: Any) -> Row:
    """With hard negatives, unless `static` says otherwise."""
    return Row(name, "cmcs", run, {"static": {"folder": "motion"}, **changes}, seeds, published)


def _still(name: str, run: str, **rule: Any) -> Row:
    return _cmcs(name, run, None, EVERY_SEED, static={"folder": "motion", **rule})


def _scoring(name: str, run: str, published: float, **grouping: Any) -> Row:
    changes = {"detector": {"postprocessing": {"grouping": grouping}}}
    return Row(name, "cmcs", run, changes, EVERY_SEED, published, weights_of="cmcs")


def _fused(name: str, run: str, fusion: str, **changes: Any) -> Row:
    options = {"input_channels": list(two_streams.CHANNELS), "fusion": fusion}
    return _cmcs(name, run, None, EVERY_SEED, features=two_streams.RULE, detector={"options": options}, **changes)


def _branches(count: int, **options: Any) -> dict[str, Any]:
    return {"options": {"branches": count, **options}}


def _width(channels: int) -> dict[str, int]:
    return {"channels": channels, "neck_channels": channels, "head_channels": channels}


PROPOSALS = Study(
    "proposals",
    "Spans of any action",
    "Detectors that find actions of any class, judged on finding them, whatever their label. Published is the "
    "supplement of RCL: average mAP on ActivityNet, of BMN and of RCL on it.",
    (
        _detector("bmn", "BMN"),
        _rcl("RCL on BMN", "rcl", seeds=EVERY_SEED),
        _detector("gtad", "G-TAD"),
        _rcl("RCL on G-TAD", "rcl-gtad", seeds=EVERY_SEED, host="gtad"),
    ),
)
PROPOSALS_BY_RUN = {row.run: row for row in PROPOSALS.rows}

DETECTORS = Study(
    "detectors",
    "Detectors",
    "Every detector on the features of the bundle that ships, with its Marionette preset. Spans of BMN, G-TAD and RCL "
    "are of any action; a classifier of whole videos names them. CMCS learns from labels of whole videos alone, "
    "without hard negatives.",
    (
        _detector("actionformer", "ActionFormer"),
        _detector("asl", "ASL"),
        _detector("amnet", "AMNet"),
        _react("ReAct", "react", EVERY_SEED),
        _detector("tadtr", "TadTR"),
        _detector("afsd", "AFSD"),
        _named("BMN, named", "bmn"),
        _named("G-TAD, named", "gtad"),
        _named("RCL on BMN, named", "rcl"),
        _named("RCL on G-TAD, named", "rcl-gtad"),
        _cmcs("CMCS", "cmcs-branches", None, EVERY_SEED, static=None),
    ),
)

ASL_SENSITIVITY = Study(
    "asl-sensitivity",
    "ASL: what its evaluator and its contrastive loss add",
    "Published is Table c of the paper's supplement: average mAP on THUMOS14. The baseline is the same network under "
    "ActionFormer's loss; +Inst weighs its points by the instance-level evaluator, +Class by the class-level one, +ASL "
    "by both; +ASCL adds the contrastive loss.",
    (
        _asl(
            "baseline",
            "asl-baseline",
            66.08,
            EVERY_SEED,
            instance_sensitivity=False,
            class_sensitivity=False,
            contrastive=False,
        ),
        _asl("+Inst", "asl-instance", 66.96, class_sensitivity=False, contrastive=False),
        _asl("+Class", "asl-class", 67.12, EVERY_SEED, instance_sensitivity=False, contrastive=False),
        _asl("+ASL", "asl-both", 67.74, EVERY_SEED, contrastive=False),
        _asl("+ASCL", "asl", 67.88, EVERY_SEED),
    ),
)

AMNET_WIDTH = Study(
    "amnet-width",
    "AMNet: embedding width",
    "Published is the paper's Table 1: average mAP on THUMOS14 with embeddings of 512, 256 and 128 channels. Ours have "
    "a quarter of them: 128, 64 and 32.",
    (
        _amnet("512 (ours 128)", "amnet", 63.3, EVERY_SEED),
        _amnet("256 (ours 64)", "amnet-64", 62.2, **_width(64)),
        _amnet("128 (ours 32)", "amnet-32", 56.8, **_width(32)),
    ),
)

AMNET_DEPTH = Study(
    "amnet-depth",
    "AMNet: layers and heads of group attention",
    "Published is the paper's Table 2: average mAP on THUMOS14. Two layers of eight heads did not fit its memory.",
    (
        _amnet("2 layers of 4 heads", "amnet", 63.3, EVERY_SEED),
        _amnet("1 layer of 4 heads", "amnet-1x4", 62.0, group_layers=1),
        _amnet("1 layer of 2 heads", "amnet-1x2", 63.2, group_layers=1, group_heads=2),
    ),
)

AMNET_MASK = Study(
    "amnet-mask",
    "AMNet: without its parts",
    "The mask held at one, or group attention left out; the paper tells no such figures.",
    (
        _amnet("AMNet", "amnet", None, EVERY_SEED),
        _amnet("mask off", "amnet-no-mask", None, mask="off"),
        _amnet("groups off", "amnet-no-groups", None, EVERY_SEED, groups="off"),
    ),
)

REACT_PARTS = Study(
    "react-parts",
    "ReAct: without its parts",
    "Plain focal loss is training without ACE-dec, as in the paper's Fig. 4; every query attends to every other where "
    "relations are off; and snippets are not contrasted where ACE-enc is off.",
    (
        _react("ReAct", "react", EVERY_SEED),
        _react("focal loss (no ACE-dec)", "react-focal", EVERY_SEED, loss={"options": {"ace_dec": 0.0}}),
        _react("relations off", "react-all-related", detector={"options": {"relational": False}}),
        _react("ACE-enc off", "react-no-contrast", loss={"options": {"ace_enc": 0.0}}),
    ),
)

NAMES = Study(
    "names",
    "What names BMN's spans",
    "The same spans under names of two classifiers, with scores joined as a product or its square root, under all "
    "twelve names or the likeliest two.",
    (
        _named("attention, product, 12", "bmn"),
        _named("average, product, 12", "bmn", scores="average"),
        _named("attention, square root, 12", "bmn", rule="sqrt"),
        _named("attention, product, 2", "bmn", classes=2),
    ),
)

RCL_STEPS = Study(
    "rcl-steps",
    "RCL: steps of refinement",
    "On BMN, spans of any action. Published is the paper's supplement: average mAP on ActivityNet, trained with ten. "
    "The first rows are the same weights, trained with five steps, and so many at inference.",
    (
        _rcl("5, as trained", "rcl", 35.85, EVERY_SEED),
        _rcl_steps(0, 35.41),
        _rcl_steps(1, 35.60),
        _rcl_steps(10, 35.98),
        _rcl_steps(15, 35.64),
        _rcl("0, trained so", "rcl-0", 35.41, EVERY_SEED, iterations=0),
    ),
    costs=True,
)

RCL_SAMPLING = Study(
    "rcl-sampling",
    "RCL: which spans are asked for",
    "On BMN, spans of any action. By length of action: [rcl_lengths.md](rcl_lengths.md).",
    (
        _rcl("scale-invariant", "rcl", seeds=EVERY_SEED),
        _rcl("regular", "rcl-regular", seeds=EVERY_SEED, sampling="regular", rows=64),
        _rcl("sparse by half", "rcl-sparse-half", seeds=EVERY_SEED, sampling="sparse-half", rows=64),
        _rcl("sparse by levels", "rcl-sparse-levels", seeds=EVERY_SEED, sampling="sparse-levels", rows=64),
    ),
    costs=True,
)

APART = {"options": {"diversity_weight": 0.0, "norm_weight": 0.0}}
CMCS_PARTS = Study(
    "cmcs-parts",
    "CMCS: branches and hard negatives",
    "From labels of whole videos alone. Published is the paper's supplement: mean mAP over tIoU 0.1 to 0.5 on "
    "THUMOS14. Masking leaves static snippets out where the run is judged; HN shows them as background in training.",
    (
        _cmcs("baseline", "cmcs-baseline", 28.8, EVERY_SEED, static=None, detector=_branches(1), loss=APART),
        Row(
            "+ masking",
            "cmcs",
            "cmcs-masking",
            {"static": {"folder": "motion", "use": "judging"}, "detector": _branches(1), "loss": APART},
            EVERY_SEED,
            28.6,
            weights_of="cmcs-baseline",
        ),
        _cmcs("+ HN", "cmcs-negatives", 32.7, EVERY_SEED, detector=_branches(1), loss=APART),
        _cmcs("+ branches, label loss", "cmcs-branches-label", 29.1, EVERY_SEED, static=None, loss=APART),
        _cmcs("+ branches", "cmcs-branches", 34.8, EVERY_SEED, static=None),
        _cmcs("full", "cmcs", 37.4, EVERY_SEED),
        _cmcs(
            "HN, one wide branch",
            "cmcs-wide",
            32.9,
            EVERY_SEED,
            detector=_branches(1, branch_layers=[[64, 3]]),
            loss=APART,
        ),
        _cmcs("average pooling", "cmcs-average", 36.3, EVERY_SEED, detector={"options": {"pooling": "average"}}),
        _cmcs("kernels of 1", "cmcs-kernel1", 35.1, EVERY_SEED, detector={"options": {"branch_layers": [[16, 1]]}}),
    ),
)

CMCS_STILL = Study(
    "cmcs-still",
    "CMCS: what hard negatives are made of",
    "Much of what is called still lies in actions ([still_parts.md](still_parts.md)). The last row takes none of that, "
    "which takes the times of actions: no way to train from labels of videos, but what right hard negatives would do.",
    (
        _cmcs("none", "cmcs-branches", None, EVERY_SEED, static=None),
        _cmcs("below percentile 25 for 2 s, as published", "cmcs", None, EVERY_SEED),
        _still("below percentile 25 for 1 s", "cmcs-still-1s", least_s=1.0),
        _still("below percentile 15 for 1 s", "cmcs-still-15", percentile=15.0, least_s=1.0),
        _still("as published, outside of actions", "cmcs-still-outside", folder=still_parts.OUTSIDE),
    ),
)

CMCS_SCORING = Study(
    "cmcs-scoring",
    "CMCS: what a segment's score is made of",
    "Published is the paper's supplement, as above.",
    (
        _cmcs("inside, outside, video", "cmcs", 37.4, EVERY_SEED),
        _scoring("inside", "cmcs-inner", 36.6, score="inner", global_weight=0.0),
        _scoring("inside, outside", "cmcs-no-global", 36.8, global_weight=0.0),
        _scoring("inside, video", "cmcs-no-outer", 37.0, score="inner"),
    ),
)

CMCS_BRANCHES = Study(
    "cmcs-branches",
    "CMCS: number of branches",
    "The paper shows a curve, whose numbers are not known here.",
    tuple(
        _cmcs(f"{count}", f"cmcs-{count}", None, EVERY_SEED, detector=_branches(count))
        if count != 4
        else _cmcs("4", "cmcs", None, EVERY_SEED)
        for count in (1, 2, 3, 4, 6, 8)
    ),
)

CMCS_FUSION = Study(
    "cmcs-fusion",
    "CMCS: two kinds of features",
    "Features of RGB, with and without how much moves in each frame of a snippet (`two_streams.py`): one network that "
    "sees both, or two whose logits are averaged. Without hard negatives and with them.",
    (
        _cmcs("RGB alone", "cmcs-branches", None, EVERY_SEED, static=None),
        _fused("early", "cmcs-branches-early", "early", static=None),
        _fused("late", "cmcs-branches-late", "late", static=None),
        _cmcs("RGB alone, HN", "cmcs", None, EVERY_SEED),
        _fused("early, HN", "cmcs-early", "early"),
        _fused("late, HN", "cmcs-late", "late"),
    ),
)

CMCS_CLASSES = Study(
    "cmcs-classes",
    "CMCS: what hard negatives do to each class",
    "Average precision, mean over tIoU.",
    (
        _cmcs("without", "cmcs-branches", None, EVERY_SEED, static=None),
        _cmcs("with", "cmcs", None, EVERY_SEED),
    ),
    by_class=True,
)

STUDIES = (
    DETECTORS,
    PROPOSALS,
    NAMES,
    RCL_STEPS,
    RCL_SAMPLING,
    ASL_SENSITIVITY,
    AMNET_WIDTH,
    AMNET_DEPTH,
    AMNET_MASK,
    REACT_PARTS,
    CMCS_PARTS,
    CMCS_STILL,
    CMCS_SCORING,
    CMCS_BRANCHES,
    CMCS_FUSION,
    CMCS_CLASSES,
)
