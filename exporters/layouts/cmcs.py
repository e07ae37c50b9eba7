"""CMCS as the authors' code writes its networks down: a configuration file, and one file of weights per modality.

"official" is one network, for RGB, flow or both side by side; "official-late-fusion" is two, whose weights are told
apart by what stands before their names: rgb/ and flow/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.detectors.cmcs import Cmcs
from models.detectors.cmcs_config import CmcsConfig, Layers
from service.errors import InvalidOptions

MODALITIES = ("rgb", "flow")
MODEL_KEYS = (
    "class_num",
    "dropout_rate",
    "cls_branch_num",
    "base_layer_params",
    "cls_layer_params",
    "att_layer_params",
)
# How they train and localise is in their file, too; here rules and plans say it.
FILE_KEYS = (
    *("experiment_naming", "dataset_name", "feature_type", "feature_oversample", "feature_dim", "sample_rate"),
    *("base_sample_rate", "base_snippet_size", "action_class_num", "with_bg", "model_params", "detect_params"),
    *("diversity_reg", "diversity_weight", "train_run_num", "training_max_len", "batch_size", "learning_rate"),
    *("learning_rate_decay", "weight_decay", "max_step_num", "check_points", "log_freq", "file_paths"),
)
NAMES = (
    (r"shared\.convs\.(\d+)\.(\w+)", r"base.base_conv_\1.\2"),
    (r"branches\.(\d+)\.convs\.convs\.(\d+)\.(\w+)", r"cls_bottoms.\1.cls_b\1_conv_\2.\3"),
    (r"branches\.(\d+)\.linear\.(\w+)", r"cls_heads.\1.\2"),
    (r"attention\.convs\.convs\.(\d+)\.(\w+)", r"att_bottom.att_conv_\1.\2"),
    (r"attention\.linear\.(\w+)", r"att_head.\1"),
)


def _build(config: Mapping[str, Any], state: State, prefixes: Sequence[str]) -> Cmcs:
    refuse_unknown(config, FILE_KEYS, "config")
    model = config["model_params"]
    refuse_unknown(model, MODEL_KEYS, "config.model_params")
    background = bool(config.get("with_bg", True))
    outputs = _found(state, f"{prefixes[0]}cls_heads.0.weight").shape[0]
    return Cmcs(
        CmcsConfig(
            input_channels=tuple(_found(state, f"{prefix}base.base_conv_0.weight").shape[1] for prefix in prefixes),
            num_classes=outputs - background,
            fusion="late" if len(prefixes) > 1 else "early",
            branches=model["cls_branch_num"],
            shared_layers=_layers(model["base_layer_params"]),
            branch_layers=_layers(model["cls_layer_params"]),
            attention_layers=_layers(model["att_layer_params"]),
            background=background,
            dropout=model["dropout_rate"],
        )
    )


def _found(state: State, name: str) -> Any:
    """Their configuration leaves the number of classes, and whether RGB and flow stand side by side, to the weights."""
    if name not in state:
        raise InvalidOptions(f"CMCS: the weights hold no {name}, which tells the network's width")
    return state[name]


def _layers(given: Sequence[Sequence[int]]) -> Layers:
    return tuple((channels, kernel) for channels, kernel in given)


def _layout(prefixes: Sequence[str]) -> Layout:
    rules = [
        (rf"networks\.{number}\.{ours}", prefix + theirs)
        for number, prefix in enumerate(prefixes)
        for ours, theirs in NAMES
    ]
    return Layout(lambda config, state: _build(config, state, prefixes), renamed(rules))


LAYOUTS: dict[str, Layout] = {
    "official": _layout([""]),
    "official-late-fusion": _layout([f"{modality}/" for modality in MODALITIES]),
}
