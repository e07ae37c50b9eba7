"""AFSD as its authors write it down: their configuration and weight names, against ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.detectors.afsd import AfsdOfMaps
from models.detectors.afsd_config import AfsdConfig
from service.errors import InvalidOptions

PREFIX = "coarse_pyramid_detection."
# What the published code fixes by the number of maps that its pyramid begins with: one is for ActivityNet's.
FRAMES_PER_STEP = {1: 8, 2: 4}
UNITS_FRAMES = {1: (4.0, 8.0, 16.0, 32.0, 64.0, 128.0), 2: ()}
GROUPS = 32

# Convolutions with their norms: our name, their convolution, their norm.
UNITS = (
    (r"stem\.levels\.(\d+)", r"pyramids.\1.0.conv3d", r"pyramids.\1.1"),
    (r"heads\.pyramid\.(\d+)", r"pyramids.\1.0.conv1d", r"pyramids.\1.1"),
    (r"heads\.frame_tower\.0", "deconv.0.conv1d", "deconv.1"),
    (r"heads\.frame_tower\.1", "deconv.3.conv1d", "deconv.4"),
    (r"heads\.frame_tower\.2", "deconv.6.conv1d", "deconv.7"),
    *(
        (rf"heads\.{ours}_{part}", rf"{theirs}_{their_part}.0.conv1d", rf"{theirs}_{their_part}.1")
        for ours, theirs in (("location", "loc"), ("class", "conf"))
        for part, their_part in (
            (r"tower\.(\d+)", r"tower.\1"),
            (r"branch\.point", "proposal_branch.cur_point_conv"),
            (r"branch\.sides", "proposal_branch.lr_conv"),
            (r"branch\.frame", "proposal_branch.roi_conv"),
            (r"branch\.joined", "proposal_branch.proposal_conv"),
        )
    ),
)
ANSWERS = (
    ("locate", "loc"),
    ("classify", "conf"),
    ("correct", "prop_loc"),
    ("reclassify", "prop_conf"),
    ("judge", "center"),
)

# Our names, rewritten rule by rule; the first that matches wins.
OFFICIAL_NAMES = (
    *((rf"run\.{ours}\.conv\.(?P<kind>\w+)", rf"{PREFIX}{conv}.\g<kind>") for ours, conv, _ in UNITS),
    *((rf"run\.{ours}\.norm\.(?P<kind>\w+)", rf"{PREFIX}{norm}.\g<kind>") for ours, _, norm in UNITS),
    *((rf"run\.heads\.{ours}\.(\w+)", rf"{PREFIX}{theirs}_head.conv1d.\1") for ours, theirs in ANSWERS),
    (r"run\.heads\.scales\.(\d+)", rf"{PREFIX}loc_heads.\1.scale"),
)


def from_official(config: Mapping[str, Any], state: State) -> AfsdOfMaps:
    """Their whole yaml as one object, of which `dataset` counts; widths and number of classes are read off the weights.

    What follows their backbone is all that is kept: it takes maps, so it is no detector of snippet features.
    """
    refuse_unknown(config, {"dataset", "model", "training", "testing", "ngpu"}, "config")
    dataset = config["dataset"]
    refuse_unknown(dataset, {"num_classes", "training", "testing"}, "dataset")
    kernels = sorted(name for name in state if name.startswith(f"{PREFIX}pyramids.") and name.endswith("conv3d.weight"))
    if len(kernels) not in FRAMES_PER_STEP:
        raise InvalidOptions(
            f"the weights have {len(kernels)} stages named {PREFIX}pyramids.*.conv3d; 1 or 2 are known"
        )
    classes = len(state[f"{PREFIX}conf_head.conv1d.bias"])
    # ActivityNet's files count 201 classes, though its network tells action from background alone.
    if classes not in {dataset["num_classes"], 2}:
        raise InvalidOptions(f"dataset.num_classes is {dataset['num_classes']}; the weights tell {classes} apart")
    clip_frames, stages = dataset["training"]["clip_length"], len(kernels)
    if clip_frames % FRAMES_PER_STEP[stages]:
        raise InvalidOptions(f"dataset.training.clip_length {clip_frames} is no multiple of {FRAMES_PER_STEP[stages]}")
    return AfsdOfMaps(
        AfsdConfig(
            input_channels=tuple(state[name].shape[1] for name in kernels),
            num_classes=classes - 1,
            stem="spatial",
            stem_levels=stages,
            length=clip_frames // FRAMES_PER_STEP[stages],
            frames_per_step=FRAMES_PER_STEP[stages],
            levels=sum(name.startswith(f"{PREFIX}loc_heads.") for name in state),
            channels=len(state[f"{PREFIX}pyramids.0.1.weight"]),
            groups=GROUPS,
            distance_units_frames=UNITS_FRAMES[stages],
        )
    )


LAYOUTS: dict[str, Layout] = {"official": Layout(from_official, renamed(OFFICIAL_NAMES), (r"backbone\..+",))}
