"""BMN as JJBOY's code, mmaction and OpenTAD write it down: their configuration and weight names, against ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.detectors.bmn import Bmn
from models.detectors.bmn_config import BmnConfig
from service.errors import InvalidOptions

# Our names, rewritten rule by rule; the first that matches wins.
JJBOY_NAMES = (
    (r"base\.convs\.0\.conv\.(.+)", r"x_1d_b.0.\1"),
    (r"base\.convs\.1\.conv\.(.+)", r"x_1d_b.2.\1"),
    (r"base\.curves\.start\.conv\.conv\.(.+)", r"x_1d_s.0.\1"),
    (r"base\.curves\.start\.answer\.conv\.(.+)", r"x_1d_s.2.\1"),
    (r"base\.curves\.end\.conv\.conv\.(.+)", r"x_1d_e.0.\1"),
    (r"base\.curves\.end\.answer\.conv\.(.+)", r"x_1d_e.2.\1"),
    (r"reduce\.conv\.(.+)", r"x_1d_p.0.\1"),
    (r"matching\.(weight|bias)", r"x_3d_p.0.\1"),
    (r"narrow\.(.+)", r"x_2d_p.0.\1"),
    (r"head\.convs\.0\.(.+)", r"x_2d_p.2.\1"),
    (r"head\.convs\.1\.(.+)", r"x_2d_p.4.\1"),
    (r"head\.answer\.(.+)", r"x_2d_p.6.\1"),
)
EXTRACTOR, HEAD = "roi_head.proposal_roi_extractor", "roi_head.proposal_head.head"
OPENTAD_NAMES = (
    (r"base\.convs\.(\d)\.conv\.(.+)", r"projection.convs.\1.conv.\2"),
    (r"base\.curves\.start\.conv\.conv\.(.+)", r"rpn_head.tem.0.0.conv.\1"),
    (r"base\.curves\.start\.answer\.conv\.(.+)", r"rpn_head.tem.0.1.conv.\1"),
    (r"base\.curves\.end\.conv\.conv\.(.+)", r"rpn_head.tem.1.0.conv.\1"),
    (r"base\.curves\.end\.answer\.conv\.(.+)", r"rpn_head.tem.1.1.conv.\1"),
    (r"reduce\.conv\.(.+)", rf"{EXTRACTOR}.reduce_dim.0.\1"),
    (r"matching\.(weight|bias)", rf"{EXTRACTOR}.conv3d.0.\1"),
    (r"narrow\.(.+)", rf"{EXTRACTOR}.conv2d.0.\1"),
    (r"head\.convs\.(\d+)\.(.+)", rf"{HEAD}.\1.0.\2"),
    (r"head\.answer\.(.+)", rf"{HEAD}.2.\1"),
)
CONVS = 2  # over time, before all else, and over the map; names count on it
# Options that shape the network; the others are of training and of what follows.
JJBOY_OPTIONS = {"temporal_scale": 100, "prop_boundary_ratio": 0.5, "num_sample": 32, "num_sample_perbin": 3}
JJBOY_OTHERS = {
    *("feat_dim", "training_lr", "weight_decay", "train_epochs", "step_size", "step_gamma", "batch_size", "mode"),
    *("checkpoint_path", "video_info", "video_anno", "feature_path", "post_process_thread", "soft_nms_alpha"),
    *("soft_nms_low_thres", "soft_nms_high_thres", "result_file", "save_fig_path", "hidden_dim_1d", "hidden_dim_2d"),
    *("hidden_dim_3d",),
}
MMACTION_OPTIONS = {"temporal_dim": 100, "boundary_ratio": 0.5, "num_samples": 32, "num_samples_per_bin": 3}
MMACTION_OTHERS = {
    *("type", "feat_dim", "soft_nms_alpha", "soft_nms_low_threshold", "soft_nms_high_threshold"),
    *("post_process_top_k", "feature_extraction_interval", "loss_cls", "hidden_dim_1d", "hidden_dim_2d"),
    *("hidden_dim_3d",),
}
SAMPLES = (r"sample_mask", r"bm_mask")  # fixed numbers, which stand in their files as if they were weights
GROUPS = 4  # of convolutions over time; told by neither file


def from_jjboy(options: Mapping[str, Any], state: State) -> Bmn:
    """The options of JJBOY/BMN-Boundary-Matching-Network, as its opts.py names them; widths are read off the weights.

    Its map is by start and end, and its spans are read one step further than the paper's.
    """
    refuse_unknown(options, {*JJBOY_OPTIONS, *JJBOY_OTHERS}, "options")
    given = {**JJBOY_OPTIONS, **options}
    steps = given["temporal_scale"]
    return Bmn(
        BmnConfig(
            **_widths(state),
            length=steps,
            durations=steps,
            resized=True,
            bins=given["num_sample"],
            samples_per_bin=given["num_sample_perbin"],
            context=given["prop_boundary_ratio"],
            layout="start-end",
            sampled_ends="after",
            scored_ends="after",
            peak_filter=False,
        )
    )


def from_mmaction(model: Mapping[str, Any], state: State) -> Bmn:
    """The `model` part of mmaction's configuration: JJBOY's names over the paper's map by duration and start."""
    refuse_unknown(model, {*MMACTION_OPTIONS, *MMACTION_OTHERS}, "model")
    given = {**MMACTION_OPTIONS, **model}
    steps = given["temporal_dim"]
    return Bmn(
        BmnConfig(
            **_widths(state),
            length=steps,
            durations=steps,
            resized=True,
            bins=given["num_samples"],
            samples_per_bin=given["num_samples_per_bin"],
            context=given["boundary_ratio"],
            scored_ends="after",
        )
    )


def from_opentad(model: Mapping[str, Any], _state: State) -> Bmn:
    """The `model` part of OpenTAD's configuration. Its videos are windows unless `resized` says that they are not."""
    refuse_unknown(model, {"type", "projection", "rpn_head", "roi_head", "resized"}, "model")
    projection, roi = model["projection"], model["roi_head"]
    head, extractor = roi["proposal_head"], roi["proposal_roi_extractor"]
    for where, count in (("projection", projection.get("num_convs", CONVS)), ("proposal_head", head["num_convs"])):
        if count != CONVS:
            raise InvalidOptions(f"num_convs of {where} is {count}; BMN has {CONVS}")
    if extractor["out_channels"] != head["feat_channels"]:
        raise InvalidOptions(
            f"out_channels of the extractor is {extractor['out_channels']}, feat_channels of the head "
            f"{head['feat_channels']}; they must be the same"
        )
    return Bmn(
        BmnConfig(
            input_channels=(projection["in_channels"],),
            length=extractor["tscale"],
            durations=extractor["dscale"],
            resized=model.get("resized", False),
            channels=projection["out_channels"],
            groups=projection.get("conv_cfg", {}).get("groups", 1),
            hidden_channels=extractor["hid_channels"],
            cell_channels=extractor["roi_channels"],
            head_channels=head["feat_channels"],
            bins=extractor["num_sample"],
            samples_per_bin=extractor["num_sample_perbin"],
            context=extractor["prop_extend_ratio"],
            classification_channel=0,
            boundary_scores=False,
        )
    )


def _widths(state: State) -> dict[str, Any]:
    sizes = {name.removeprefix("module."): value.shape for name, value in state.items()}
    for name in ("x_1d_b.0.weight", "x_1d_p.0.weight", "x_3d_p.0.weight", "x_2d_p.0.weight"):
        if name not in sizes:
            raise InvalidOptions(f"the weights have no {name}, which says how wide the network is")
    channels, per_group, _ = sizes["x_1d_b.0.weight"]
    return {
        "input_channels": (per_group * GROUPS,),
        "channels": channels,
        "groups": GROUPS,
        "hidden_channels": sizes["x_1d_p.0.weight"][0],
        "cell_channels": sizes["x_3d_p.0.weight"][0],
        "head_channels": sizes["x_2d_p.0.weight"][0],
    }


LAYOUTS: dict[str, Layout] = {
    "jjboy": Layout(from_jjboy, renamed(JJBOY_NAMES), SAMPLES),
    "mmaction": Layout(from_mmaction, renamed(JJBOY_NAMES), SAMPLES),
    "opentad": Layout(from_opentad, renamed(OPENTAD_NAMES)),
}
