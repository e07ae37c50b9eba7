"""Every network of the catalogue, small, with weights that let each part matter; its variants stand beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from models.backbones import i3d, tsn
from models.backbones.backbone import Backbone
from models.catalog import BACKBONES, DETECTORS
from models.detectors import (
    actionformer_config,
    actionformer_loss,
    afsd_config,
    afsd_loss,
    amnet_config,
    amnet_loss,
    asl_config,
    asl_loss,
    bmn_config,
    bmn_loss,
    cmcs_config,
    cmcs_loss,
    gtad_config,
    gtad_loss,
    rcl_config,
    rcl_loss,
    react_config,
    react_loss,
    tadtr_config,
    tadtr_loss,
)
from models.detectors.detector import Detector, Targets

SMALL_BACKBONES: dict[str, dict[str, Any]] = {
    "i3d": {
        "rgb": replace(i3d.compact("rgb", 5, width=0.0625), size_px=32, clip_frames=8),
        "flow": replace(i3d.compact("flow", 5, width=0.0625), size_px=32, clip_frames=12),
    },
    "tsn": {
        "resnet50": replace(tsn.compact("rgb", 5, width=0.125), size_px=32, segments=2),
        "bn-inception flow": replace(tsn.bn_inception("flow", 5), size_px=64, width=0.125),
    },
}
LOCAL = actionformer_config.ActionFormerConfig(
    (6,), 3, channels=8, neck_channels=8, head_channels=8, heads=2, windows=(5, 5), train_length=64
)
AFSD = afsd_config.AfsdConfig((6,), 3, channels=16, groups=2, levels=3, length=16)
AMNET = amnet_config.AmnetConfig(
    (6,),
    3,
    channels=8,
    neck_channels=8,
    head_channels=8,
    heads=2,
    windows=(5, 5, 5),
    train_length=64,
    group_layers=1,
    group_heads=2,
)
ASL = asl_config.AslConfig(
    (6,), 3, channels=8, neck_channels=8, head_channels=8, heads=2, windows=(5, 5), train_length=64
)
TADTR = tadtr_config.TadTRConfig(
    (6,),
    3,
    channels=8,
    heads=2,
    encoder_layers=1,
    decoder_layers=2,
    decoder_points=3,
    feedforward_channels=12,
    queries=5,
    length=16,
    bins=4,
    norm_groups=2,
)
REACT = react_config.ReActConfig(
    (6,),
    3,
    channels=8,
    heads=2,
    feed_forward=12,
    encoder_layers=1,
    decoder_layers=3,
    queries=6,
    train_length=16,
    similarity_above=-0.5,
)
GTAD = gtad_config.GtadConfig(
    (8,),
    channels=8,
    pooled_channels=12,
    head_channels=6,
    length=16,
    max_duration=8,
    inner_bins=4,
    context_bins=4,
    graph_groups=4,
    graph_width=8,
)
BMN = bmn_config.BmnConfig(
    (6,),
    length=16,
    durations=16,
    channels=8,
    groups=2,
    hidden_channels=6,
    cell_channels=10,
    head_channels=8,
    bins=4,
)
RCL = rcl_config.RclConfig(
    (6,),
    length=16,
    rows=12,
    longest=16,
    channels=8,
    groups=2,
    hidden_channels=6,
    cell_channels=10,
    head_channels=8,
    bins=4,
    iterations=2,
    memory_channels=6,
    context_channels=4,
)
CMCS = cmcs_config.CmcsConfig(
    (6,), 3, branches=3, shared_layers=((8, 1),), branch_layers=((5, 3),), attention_layers=((4, 1),)
)
SMALL_DETECTORS: dict[str, dict[str, Any]] = {
    "cmcs": {
        "early fusion": replace(CMCS, input_channels=(4, 2)),
        "late fusion": replace(CMCS, input_channels=(4, 2), fusion="late", branch_layers=((6, 3), (5, 5))),
        "one wide branch without background, every snippet alike": replace(
            CMCS, branches=1, branch_layers=((20, 1),), pooling="average", background=False
        ),
    },
    "gtad": {
        "windows": GTAD,
        "resized, filtered": replace(
            GTAD, resized=True, max_duration=16, head_kernel=1, inner_bins=8, context_bins=2, boundary_filter="after"
        ),
        "all neighbours, exclusive ends": replace(
            GTAD, context="all", exclusive_ends=True, ends_inside=False, boundary_filter="within"
        ),
        "without context": replace(GTAD, context="none", neighbours=2, classification_first=True, cell_start=0.0),
    },
    "react": {
        "windows": REACT,
        "resized, one class": replace(REACT, resized=True, num_classes=1, overlap_up_to=0.9),
        "padded positions": replace(REACT, padded_positions=True, encoder_points=2),
        "without relations": replace(REACT, relational=False, encoder_layers=0),
    },
    "tadtr": {
        "windows": TADTR,
        "resized, masked, one class": replace(TADTR, resized=True, padding="masked", num_classes=1),
        "without its parts": replace(
            TADTR, refine=False, actionness=False, query_attention=False, positions=False, activation="gelu"
        ),
    },
    "asl": {
        "local": ASL,
        "resized, one class": replace(ASL, num_classes=1, train_length=16, resized=True, position_encoding=True),
        "released": replace(ASL, channel_attention="released", stem_blocks=1),
    },
    "bmn": {
        "windows": replace(BMN, durations=9, boundary_scores=False),
        "resized": replace(BMN, resized=True, peak_filter=False),
        "start-end": replace(BMN, layout="start-end", sampled_ends="after", scored_ends="after"),
    },
    "rcl": {
        "on bmn": RCL,
        "regular, motion encoder": replace(
            RCL, sampling="regular", rows=9, longest=9, update="full", coordinates="absolute"
        ),
        "sparse, on gtad, resized": replace(
            RCL,
            host="gtad",
            graph_groups=2,
            graph_width=4,
            sampling="sparse-levels",
            rows=16,
            coordinates="absolute",
            resized=True,
        ),
        "without refinement": replace(RCL, sampling="sparse-half", rows=16, coordinates="absolute", iterations=0),
    },
    "afsd": {
        "two levels from the stem": AFSD,
        "late fusion": replace(AFSD, input_channels=(4, 2), fusion="late", levels=2),
        "resized, one class, between steps": replace(
            AFSD,
            num_classes=1,
            stem_levels=1,
            resized=True,
            frames_per_step=8,
            distance_units_frames=(4.0, 8.0, 16.0),
            boundaries="continuous",
        ),
    },
    "amnet": {
        "temporal": replace(AMNET, group_layers=2),
        "channel, own sigmoids": replace(AMNET, groups="channel", mask_form="independent", refinement="scaled"),
        "pyramid": replace(AMNET, groups="pyramid", refinement="scaled", stem_blocks=1),
        "mask off, fixed length": replace(
            AMNET, mask="off", num_classes=1, windows=(5, 5, 0), train_length=16, position_encoding=True
        ),
        "groups off": replace(AMNET, groups="off", neck="pyramid", neck_channels=4),
    },
    "actionformer": {
        "local": LOCAL,
        "fixed length": replace(LOCAL, num_classes=1, windows=(5, 0), train_length=16, position_encoding=True),
        "pyramid, positions, several features": replace(
            LOCAL,
            input_channels=(4, 2),
            projected_channels=(5, 3),
            neck="pyramid",
            neck_channels=4,
            position_encoding=True,
            train_length=16,
        ),
    },
}
LOSSES: dict[str, Any] = {
    "react": react_loss.ReActLossConfig(),
    "tadtr": tadtr_loss.TadTRLossConfig(),
    "gtad": gtad_loss.GtadLossConfig(),
    "cmcs": cmcs_loss.CmcsLossConfig(),
    "asl": asl_loss.AslLossConfig(asl_loss.ranges_of(2)),
    "actionformer": actionformer_loss.ActionFormerLossConfig(actionformer_loss.ranges_of(2)),
    "afsd": afsd_loss.AfsdLossConfig(),
    "bmn": bmn_loss.BmnLossConfig(zero_is_low=True),
    "rcl": rcl_loss.RclLossConfig(zero_is_low=True),
    "amnet": amnet_loss.AmnetLossConfig(((0.0, 4.0), (4.0, 1e4), (4.0, 1e4)), center_radius=None),
}


def backbone(name: str, variant: str) -> Backbone:
    return scattered(BACKBONES[name].network, SMALL_BACKBONES[name][variant])


def detector(name: str, variant: str) -> Detector:
    return scattered(DETECTORS[name].network, SMALL_DETECTORS[name][variant])


def scattered(network: Any, config: Any) -> Any:
    """At its start a network's residual branches are all but shut, and every class scores the same."""
    torch.manual_seed(1)
    made: nn.Module = network(config)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made.eval()


def clips(network: Backbone, count: int) -> torch.Tensor:
    form = network.clip_format
    torch.manual_seed(count)
    if form.kind == "flow":
        return 5 * torch.randn(count, form.clip_frames, form.size_px, form.size_px, 2)
    return torch.randint(0, 256, (count, form.clip_frames, form.size_px, form.size_px, 3), dtype=torch.uint8)


def window_length(network: Detector) -> int:
    lengths = network.config.lengths
    return lengths.fixed or 16 * lengths.multiple_of


def annotated(length: int, num_classes: int) -> Targets:
    """A short and a long action, so that fine and coarse levels answer for one."""
    spans = torch.tensor([[1.0, 4.5], [5.0, length - 1.0]])
    return Targets(spans, torch.tensor([0, num_classes - 1]))
