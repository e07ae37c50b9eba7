"""G-TAD as both branches of the authors' code and OpenTAD write it down: options and weight names, against ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.detectors.gtad import Gtad
from models.detectors.gtad_config import Context, GtadConfig
from service.errors import InvalidOptions

# What shapes the network, with the values that their options have where they leave them out.
OPTIONS: dict[str, Any] = {
    "temporal_scale": 256,
    "max_duration": 64,
    "feat_dim": 2048,
    "h_dim_1d": 256,
    "h_dim_2d": 128,
    "h_dim_3d": 512,
    "goi_style": 1,
    "goi_samp": 0,
    "kern_2d": 3,
    "pad_2d": 1,
}
# Options of data, training, output and suppression.
OTHER_OPTIONS = {
    *("training_lr", "weight_decay", "train_epochs", "batch_size", "step_size", "step_gamma", "n_gpu", "n_cpu"),
    *("subset", "output", "video_info", "video_anno", "feature_path", "min_duration", "skip_videoframes"),
    *("nms_thr", "override"),
}
CONTEXTS: tuple[Context, ...] = ("none", "last", "all")  # by goi_style

# Our names of parts and of what stands in a graph layer, and theirs.
OFFICIAL_PARTS = {
    "stem": "backbone1.0",
    "first": "backbone1.2",
    "second": "backbone2.0",
    r"find_starts\.graph": "regu_s.0",
    r"find_starts\.answer": "regu_s.1",
    r"find_ends\.graph": "regu_e.0",
    r"find_ends\.answer": "regu_e.1",
    r"align\.project": "localization.0",
    r"head\.1": "localization.2",
    r"head\.3": "localization.4",
    r"head\.5": "localization.6",
    r"head\.7": "localization.8",
}
EXTRACTOR, HEAD = "roi_head.proposal_roi_extractor", "roi_head.proposal_head.head"
OPENTAD_PARTS = {
    "stem": "projection.convs.0.conv",
    "first": "neck",
    "second": f"{EXTRACTOR}.gcnext",
    r"find_starts\.graph": "rpn_head.tem.0.0",
    r"find_starts\.answer": "rpn_head.tem.0.1.conv",
    r"find_ends\.graph": "rpn_head.tem.1.0",
    r"find_ends\.answer": "rpn_head.tem.1.1.conv",
    r"align\.project": f"{EXTRACTOR}.conv2d.0",
    r"head\.1": f"{HEAD}.0.0",
    r"head\.3": f"{HEAD}.1.0",
    r"head\.5": f"{HEAD}.2.0",
    r"head\.7": f"{HEAD}.3",
}
# OpenTAD's parts: what shapes the network in each, with its default; other keys are of losses and of how it is served.
PROJECTION = {"in_channels": 400, "out_channels": 256, "num_convs": 1, "conv_cfg": {"groups": 4}}
EXTRACTION = {
    "in_channels": 256,
    "out_channels": 128,
    "tscale": 128,
    "dscale": 128,
    "k": 3,
    "roi_size": 32,
    "context_size": 4,
    "prop_extend_ratio": 0.5,
}
HEADS = {"in_channels": 512, "feat_channels": 128, "num_convs": 3, "num_classes": 2, "kernel_size": 1}


def from_master(options: Mapping[str, Any], _: State) -> Gtad:
    """The branch `master`, which is for THUMOS14. A cell begins where its first snippet stands."""
    return _from_options(options, inner_bins=16, context_bins=16, cell_start=0.0)


def from_anet(options: Mapping[str, Any], _: State) -> Gtad:
    """The branch `anet`, which is for ActivityNet."""
    return _from_options(options, inner_bins=32, context_bins=4, resized=True, boundary_filter="after")


def from_opentad(model: Mapping[str, Any], _: State) -> Gtad:
    """The `model` part of a configuration. Which data it is for it does not say: windows are taken as resized videos
    where `rules` are those of ActivityNet, so a recipe for THUMOS14 gives `windowing` of its own."""
    _require(model, "model", ("projection", "neck", "rpn_head", "roi_head"))
    projection = {**PROJECTION, **_part(model, "projection")}
    roi_head = _part(model, "roi_head")
    _require(roi_head, "model.roi_head", ("proposal_roi_extractor", "proposal_head"))
    extraction = {**EXTRACTION, **_part(roi_head, "proposal_roi_extractor")}
    head = {**HEADS, **_part(roi_head, "proposal_head")}
    if projection["num_convs"] != 1 or head["num_convs"] != 3 or head["num_classes"] != 2:
        raise InvalidOptions(
            f"projection.num_convs is {projection['num_convs']}, proposal_head.num_convs {head['num_convs']}, "
            f"num_classes {head['num_classes']}; accepted are 1, 3 and 2"
        )
    return Gtad(
        GtadConfig(
            (projection["in_channels"],),
            channels=projection["out_channels"],
            pooled_channels=extraction["out_channels"],
            head_channels=head["feat_channels"],
            head_kernel=head["kernel_size"],
            length=extraction["tscale"],
            max_duration=extraction["dscale"],
            resized=True,
            inner_bins=extraction["roi_size"],
            context_bins=extraction["context_size"],
            neighbours=extraction["k"],
            stem_groups=(projection["conv_cfg"] or {}).get("groups", 1),
            exclusive_ends=True,
            ends_inside=False,
            boundary_filter="within",
            classification_first=True,
        )
    )


def _from_options(options: Mapping[str, Any], **of_branch: Any) -> Gtad:
    refuse_unknown(options, OPTIONS.keys() | OTHER_OPTIONS, "options")
    given = {**OPTIONS, **options}
    if given["goi_style"] not in range(len(CONTEXTS)) or given["goi_samp"] != 0:
        raise InvalidOptions(
            f"goi_style is {given['goi_style']!r}, goi_samp {given['goi_samp']!r}; accepted are 0, 1, 2, and 0"
        )
    if given["pad_2d"] != given["kern_2d"] // 2:
        raise InvalidOptions(
            f"pad_2d {given['pad_2d']} is not half of kern_2d {given['kern_2d']}: the map would shrink"
        )
    return Gtad(
        GtadConfig(
            (given["feat_dim"],),
            channels=given["h_dim_1d"],
            pooled_channels=given["h_dim_3d"],
            head_channels=given["h_dim_2d"],
            head_kernel=given["kern_2d"],
            length=given["temporal_scale"],
            max_duration=given["max_duration"],
            context=CONTEXTS[given["goi_style"]],
            **of_branch,
        )
    )


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of[name]
    if not isinstance(found, Mapping):
        raise InvalidOptions(f"{name} is {found!r}; an object is needed")
    return found


def _require(given: Mapping[str, Any], where: str, names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in given]
    if missing:
        raise InvalidOptions(f"{where} lacks {', '.join(missing)}")


def _names(parts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    kinds = ((r"\.temporal\.(.+)", r".tconvs.\1"), (r"\.semantic\.(.+)", r".sconvs.\1"), (r"\.(weight|bias)", r".\1"))
    return tuple((ours + tail, theirs + their) for ours, theirs in parts.items() for tail, their in kinds)


LAYOUTS: dict[str, Layout] = {
    "master": Layout(from_master, renamed(_names(OFFICIAL_PARTS))),
    "anet": Layout(from_anet, renamed(_names(OFFICIAL_PARTS))),
    "opentad": Layout(from_opentad, renamed(_names(OPENTAD_PARTS))),
}
