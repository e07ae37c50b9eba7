"""THE list of networks, by name: presets of their configuration, losses to train them, rules to serve them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from models.backbones import i3d, tsn
from models.backbones.backbone import Backbone
from models.classifiers import video_classifier
from models.classifiers.video_classifier import VideoClassifier
from models.detectors import (
    actionformer,
    actionformer_config,
    actionformer_loss,
    actionformer_rules,
    afsd,
    afsd_config,
    afsd_loss,
    afsd_rules,
    amnet,
    amnet_config,
    amnet_loss,
    amnet_rules,
    asl,
    asl_config,
    asl_loss,
    bmn,
    bmn_config,
    bmn_loss,
    bmn_rules,
    cmcs,
    cmcs_config,
    cmcs_loss,
    cmcs_rules,
    gtad,
    gtad_config,
    gtad_loss,
    gtad_rules,
    rcl,
    rcl_config,
    rcl_loss,
    react,
    react_config,
    react_loss,
    react_rules,
    tadtr,
    tadtr_config,
    tadtr_loss,
    tadtr_rules,
)
from models.detectors.detector import Detector, Lengths, OutputKind


@dataclass(frozen=True)
class BackboneEntry:
    """`presets`: configurations that need no argument; every field of one can be replaced."""

    network: Callable[[Any], Backbone]
    presets: Mapping[str, Callable[[], Any]]


class Preset(NamedTuple):
    """What goes by one name: a network's configuration, the loss that trains it, and the rules that serve it."""

    config: Callable[[], Any]
    loss: Callable[[], Any]
    rules: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class DetectorEntry:
    """`supervision`: what it learns from, the times of actions or only which of them a whole video holds."""

    network: Callable[[Any], Detector]
    loss: Callable[[Any, Any], nn.Module]
    windowing: Callable[[Lengths], dict[str, Any]]
    named: Mapping[str, Preset]
    output_kind: OutputKind = "candidates"
    supervision: Literal["segments", "videos"] = "segments"

    @property
    def presets(self) -> dict[str, Callable[[], Any]]:
        return {name: preset.config for name, preset in self.named.items()}

    @property
    def losses(self) -> dict[str, Callable[[], Any]]:
        return {name: preset.loss for name, preset in self.named.items()}

    @property
    def rules(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {name: preset.rules for name, preset in self.named.items()}


@dataclass(frozen=True)
class ClassifierEntry:
    """A classifier of whole videos; `presets` as a backbone's."""

    network: Callable[[Any], VideoClassifier]
    presets: Mapping[str, Callable[[], Any]]


BACKBONES: Mapping[str, BackboneEntry] = {
    "i3d": BackboneEntry(
        i3d.I3d,
        {
            "rgb": i3d.rgb,
            "flow": i3d.flow,
            "compact-rgb": lambda: i3d.compact("rgb", 400),
            "compact-flow": lambda: i3d.compact("flow", 400),
        },
    ),
    "tsn": BackboneEntry(
        tsn.Tsn,
        {
            "resnet50-rgb": lambda: tsn.resnet50("rgb"),
            "resnet50-flow": lambda: tsn.resnet50("flow"),
            "bn-inception-rgb": lambda: tsn.bn_inception("rgb"),
            "bn-inception-flow": lambda: tsn.bn_inception("flow"),
            "compact-rgb": lambda: tsn.compact("rgb", 400),
            "compact-flow": lambda: tsn.compact("flow", 400),
        },
    ),
}

CLASSIFIERS: Mapping[str, ClassifierEntry] = {
    "attention": ClassifierEntry(
        video_classifier.VideoClassifier,
        {
            "untrimmednet": video_classifier.attention,
            "untrimmednet-hard": video_classifier.best,
            "many": video_classifier.attention_many,
        },
    ),
    "average": ClassifierEntry(
        video_classifier.VideoClassifier,
        {"one": video_classifier.average, "many": video_classifier.average_many},
    ),
}

DETECTORS: Mapping[str, DetectorEntry] = {
    "actionformer": DetectorEntry(
        actionformer.ActionFormer,
        actionformer_loss.ActionFormerLoss,
        actionformer_rules.windowing,
        {
            "thumos": Preset(actionformer_config.thumos, actionformer_loss.thumos, actionformer_rules.thumos),
            "activitynet": Preset(
                actionformer_config.activitynet, actionformer_loss.activitynet, actionformer_rules.activitynet
            ),
            "epic-kitchens": Preset(
                actionformer_config.epic_kitchens, actionformer_loss.epic_kitchens, actionformer_rules.epic_kitchens
            ),
            "ego4d": Preset(actionformer_config.ego4d, actionformer_loss.ego4d, actionformer_rules.ego4d),
            "compact": Preset(
                lambda: actionformer_config.compact(2048, 20), actionformer_loss.compact, actionformer_rules.thumos
            ),
        },
    ),
    "asl": DetectorEntry(
        asl.Asl,
        asl_loss.AslLoss,
        actionformer_rules.windowing,
        {
            "thumos": Preset(asl_config.thumos, asl_loss.thumos, actionformer_rules.thumos),
            "activitynet": Preset(asl_config.activitynet, asl_loss.activitynet, actionformer_rules.activitynet),
            "multithumos": Preset(asl_config.multithumos, asl_loss.thumos, actionformer_rules.thumos),
            "charades": Preset(asl_config.charades, asl_loss.thumos, actionformer_rules.thumos),
            "ego4d": Preset(asl_config.ego4d, asl_loss.ego4d, actionformer_rules.ego4d),
            "epic-kitchens": Preset(asl_config.epic_kitchens, asl_loss.epic_kitchens, actionformer_rules.epic_kitchens),
            "compact": Preset(lambda: asl_config.compact(2048, 20), asl_loss.thumos, actionformer_rules.thumos),
        },
    ),
    "afsd": DetectorEntry(
        afsd.Afsd,
        afsd_loss.AfsdLoss,
        afsd_rules.windowing,
        {
            "thumos": Preset(afsd_config.thumos, afsd_loss.thumos, afsd_rules.thumos),
            "activitynet": Preset(afsd_config.activitynet, afsd_loss.activitynet, afsd_rules.activitynet),
            "compact": Preset(lambda: afsd_config.compact(2048, 20), afsd_loss.compact, afsd_rules.thumos),
        },
    ),
    "amnet": DetectorEntry(
        amnet.Amnet,
        amnet_loss.AmnetLoss,
        amnet_rules.windowing,
        {
            "thumos": Preset(amnet_config.thumos, amnet_loss.thumos, amnet_rules.thumos),
            "thumos-256": Preset(lambda: amnet_config.thumos(channels=256), amnet_loss.thumos, amnet_rules.thumos),
            "thumos-128": Preset(lambda: amnet_config.thumos(channels=128), amnet_loss.thumos, amnet_rules.thumos),
            "activitynet": Preset(amnet_config.activitynet, amnet_loss.activitynet, amnet_rules.activitynet),
            "compact": Preset(lambda: amnet_config.compact(2048, 20), amnet_loss.compact, amnet_rules.thumos),
        },
    ),
    "gtad": DetectorEntry(
        gtad.Gtad,
        gtad_loss.GtadLoss,
        gtad_rules.windowing,
        {
            "thumos": Preset(gtad_config.thumos, gtad_loss.thumos, gtad_rules.thumos),
            "activitynet": Preset(gtad_config.activitynet, gtad_loss.activitynet, gtad_rules.activitynet),
            "compact": Preset(lambda: gtad_config.compact(2048), gtad_loss.GtadLossConfig, gtad_rules.compact),
        },
    ),
    "bmn": DetectorEntry(
        bmn.Bmn,
        bmn_loss.BmnLoss,
        bmn_rules.windowing,
        {
            "thumos": Preset(bmn_config.thumos, bmn_loss.thumos, bmn_rules.thumos),
            "thumos-fused": Preset(bmn_config.thumos, bmn_loss.thumos, bmn_rules.thumos_fused),
            "activitynet": Preset(bmn_config.activitynet, bmn_loss.activitynet, bmn_rules.activitynet),
            "activitynet-fused": Preset(bmn_config.activitynet, bmn_loss.activitynet, bmn_rules.activitynet_fused),
            "compact": Preset(lambda: bmn_config.compact(2048), bmn_loss.activitynet, bmn_rules.thumos),
        },
    ),
    "rcl": DetectorEntry(
        rcl.Rcl,
        rcl_loss.RclLoss,
        bmn_rules.windowing,
        {
            "thumos": Preset(rcl_config.thumos, rcl_loss.thumos, bmn_rules.thumos),
            "thumos-fused": Preset(rcl_config.thumos, rcl_loss.thumos, bmn_rules.thumos_fused),
            "activitynet": Preset(rcl_config.activitynet, rcl_loss.activitynet, bmn_rules.activitynet),
            "activitynet-fused": Preset(rcl_config.activitynet, rcl_loss.activitynet, bmn_rules.activitynet_fused),
            "compact": Preset(lambda: rcl_config.compact(2048), rcl_loss.compact, bmn_rules.thumos),
        },
    ),
    "cmcs": DetectorEntry(
        cmcs.Cmcs,
        cmcs_loss.CmcsLoss,
        cmcs_rules.windowing,
        {
            "thumos": Preset(cmcs_config.thumos, cmcs_loss.CmcsLossConfig, cmcs_rules.thumos),
            "thumos-untrimmednet": Preset(
                cmcs_config.thumos_untrimmednet, cmcs_loss.CmcsLossConfig, cmcs_rules.thumos_untrimmednet
            ),
            "activitynet": Preset(cmcs_config.activitynet, cmcs_loss.CmcsLossConfig, cmcs_rules.activitynet),
            "activitynet-untrimmednet": Preset(
                cmcs_config.activitynet_untrimmednet, cmcs_loss.CmcsLossConfig, cmcs_rules.activitynet_untrimmednet
            ),
            "compact": Preset(lambda: cmcs_config.compact(2048, 20), cmcs_loss.CmcsLossConfig, cmcs_rules.compact),
        },
        output_kind="activations",
        supervision="videos",
    ),
    "react": DetectorEntry(
        react.ReAct,
        react_loss.ReActLoss,
        react_rules.windowing,
        {
            "thumos": Preset(react_config.thumos, react_loss.thumos, react_rules.thumos),
            "activitynet": Preset(react_config.activitynet, react_loss.activitynet, react_rules.activitynet),
            "activitynet-fused": Preset(
                react_config.activitynet, react_loss.activitynet, react_rules.activitynet_fused
            ),
            "compact": Preset(lambda: react_config.compact(2048, 20), react_loss.thumos, react_rules.thumos),
        },
    ),
    "tadtr": DetectorEntry(
        tadtr.TadTR,
        tadtr_loss.TadTRLoss,
        tadtr_rules.windowing,
        {
            "thumos": Preset(tadtr_config.thumos, tadtr_loss.TadTRLossConfig, tadtr_rules.thumos),
            "activitynet": Preset(tadtr_config.activitynet, tadtr_loss.TadTRLossConfig, tadtr_rules.activitynet),
            "compact": Preset(lambda: tadtr_config.compact(2048, 20), tadtr_loss.TadTRLossConfig, tadtr_rules.thumos),
        },
    ),
}
