"""ActionFormer as its authors and OpenTAD write it down: their configuration and weight names, against ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.detectors.actionformer import ActionFormer
from models.detectors.actionformer_config import ActionFormerConfig
from service.errors import InvalidOptions

Config = Mapping[str, Any]

OFFICIAL_KEYS = {
    *(
        "backbone_type",
        "fpn_type",
        "backbone_arch",
        "scale_factor",
        "input_dim",
        "max_seq_len",
        "max_buffer_len_factor",
    ),
    *("n_head", "n_mha_win_size", "embd_kernel_size", "embd_dim", "embd_with_ln", "fpn_dim", "fpn_with_ln"),
    *("fpn_start_level", "head_dim", "regression_range", "head_num_layers", "head_kernel_size", "head_with_ln"),
    *("use_abs_pe", "use_rel_pe", "num_classes", "train_cfg", "test_cfg"),
}
# What their configuration holds where a file leaves it out; the rest follows from a dataset.
OFFICIAL_DEFAULTS = {
    "backbone_type": "convTransformer",
    "fpn_type": "identity",
    "backbone_arch": (2, 2, 5),
    "scale_factor": 2,
    "n_head": 4,
    "n_mha_win_size": -1,
    "embd_kernel_size": 3,
    "embd_dim": 512,
    "embd_with_ln": True,
    "fpn_dim": 512,
    "fpn_with_ln": True,
    "fpn_start_level": 0,
    "head_dim": 512,
    "head_kernel_size": 3,
    "head_num_layers": 3,
    "head_with_ln": True,
    "use_abs_pe": False,
    "use_rel_pe": False,
}
OPENTAD_KEYS = {
    "model": {"type", "projection", "neck", "rpn_head"},
    "projection.conv_cfg": {"kernel_size", "proj_pdrop"},
    "projection.attn_cfg": {"n_head", "n_mha_win_size", "attn_pdrop"},
    "projection": {
        *("type", "in_channels", "out_channels", "arch", "conv_cfg", "norm_cfg", "attn_cfg", "path_pdrop"),
        *("use_abs_pe", "max_seq_len", "input_pdrop"),
    },
    "neck": {
        "type",
        "in_channels",
        "out_channels",
        "num_levels",
        "scale_factor",
        "start_level",
        "end_level",
        "norm_cfg",
    },
    "rpn_head": {
        *("type", "num_classes", "in_channels", "feat_channels", "num_convs", "cls_prior_prob", "prior_generator"),
        *("loss_normalizer", "loss_normalizer_momentum", "center_sample", "center_sample_radius", "label_smoothing"),
        *("loss", "loss_weight", "filter_similar_gt"),
    },
}

# Our names, rewritten rule by rule; the first that matches wins.
OFFICIAL_NAMES = (
    (r"proj\.(\d+)\.conv\.(.+)", r"backbone.proj.\1.conv.\2"),
    (r"embed\.(\d+)\.conv\.conv\.(.+)", r"backbone.embd.\1.conv.\2"),
    (r"embed\.(\d+)\.norm\.(.+)", r"backbone.embd_norm.\1.\2"),
    (r"(stem|branch)\.(\d+)\.attn\.bias", r"backbone.\1.\2.attn.rel_pe"),
    (r"(stem|branch)\.(\d+)\.(attn|mlp)_path\.scale", r"backbone.\1.\2.drop_path_\3.scale"),
    (r"((?:stem|branch)\.\d+\..+)", r"backbone.\1"),
    (r"pyramid\.(.+)", r"neck.\1"),
    (r"neck_norms\.(\d+)\.(.+)", r"neck.fpn_norms.\1.\2"),
    (r"classify\.tower\.(\d+)\.conv\.conv\.(.+)", r"cls_head.head.\1.conv.\2"),
    (r"classify\.tower\.(\d+)\.norm\.(.+)", r"cls_head.norm.\1.\2"),
    (r"classify\.answer\.conv\.(.+)", r"cls_head.cls_head.conv.\1"),
    (r"regress\.tower\.(\d+)\.conv\.conv\.(.+)", r"reg_head.head.\1.conv.\2"),
    (r"regress\.tower\.(\d+)\.norm\.(.+)", r"reg_head.norm.\1.\2"),
    (r"regress\.answer\.conv\.(.+)", r"reg_head.offset_head.conv.\1"),
    (r"offset_scales\.(\d+)", r"reg_head.scale.\1.scale"),
)
OPENTAD_NAMES = (
    (r"proj\.(\d+)\.conv\.(.+)", r"projection.proj.\1.conv.\2"),
    (r"embed\.(\d+)\.conv\.conv\.(.+)", r"projection.embed.\1.conv.\2"),
    (r"embed\.(\d+)\.norm\.(.+)", r"projection.embed.\1.norm.\2"),
    (r"(stem|branch)\.(\d+)\.(attn|mlp)_path\.scale", r"projection.\1.\2.drop_path_\3.scale"),
    (r"((?:stem|branch)\.\d+\..+)", r"projection.\1"),
    (r"pyramid\.(.+)", r"neck.\1"),
    (r"neck_norms\.(\d+)\.(.+)", r"neck.fpn_norms.\1.\2"),
    (r"classify\.tower\.(\d+)\.conv\.conv\.(.+)", r"rpn_head.cls_convs.\1.conv.\2"),
    (r"classify\.tower\.(\d+)\.norm\.(.+)", r"rpn_head.cls_convs.\1.norm.\2"),
    (r"classify\.answer\.conv\.(.+)", r"rpn_head.cls_head.\1"),
    (r"regress\.tower\.(\d+)\.conv\.conv\.(.+)", r"rpn_head.reg_convs.\1.conv.\2"),
    (r"regress\.tower\.(\d+)\.norm\.(.+)", r"rpn_head.reg_convs.\1.norm.\2"),
    (r"regress\.answer\.conv\.(.+)", r"rpn_head.reg_head.\1"),
    (r"offset_scales\.(\d+)", r"rpn_head.scale.\1.scale"),
)


def from_official(model: Config, state: State) -> ActionFormer:
    """The `model` part of a configuration of the paper's code; `train_cfg` may stand in it, as it does there."""
    refuse_unknown(model, OFFICIAL_KEYS, "model")
    model = {**OFFICIAL_DEFAULTS, **model}
    training = model.get("train_cfg", {})
    embed_layers, stem_blocks, further_levels = model["backbone_arch"]
    several = isinstance(model["input_dim"], Sequence)
    blocks = {"convTransformer": "transformer", "conv": "convolution"}
    channels = _total(model["embd_dim"])
    config = ActionFormerConfig(
        input_channels=_tuple(model["input_dim"]),
        projected_channels=_tuple(model["embd_dim"]) if several else (),
        num_classes=model["num_classes"],
        channels=channels,
        heads=model["n_head"],
        windows=_windows(model["n_mha_win_size"], further_levels),
        blocks=_choice(model["backbone_type"], blocks, "backbone_type"),
        embed_layers=embed_layers,
        embed_kernel=model["embd_kernel_size"],
        stem_blocks=stem_blocks,
        scale_factor=model["scale_factor"],
        neck=_choice(model["fpn_type"], {"identity": "identity", "fpn": "pyramid"}, "fpn_type"),
        neck_channels=model["fpn_dim"],
        first_level=model["fpn_start_level"],
        head_channels=model["head_dim"],
        head_layers=model["head_num_layers"],
        head_kernel=model["head_kernel_size"],
        embed_norm=model["embd_with_ln"],
        neck_norm=model["fpn_with_ln"],
        head_norm=model["head_with_ln"],
        position_encoding=model["use_abs_pe"],
        relative_positions=model["use_rel_pe"],
        train_length=model["max_seq_len"],
        dropout=training.get("dropout", 0.0),
        drop_path=training.get("droppath", 0.1),
        residual_scale=any(name.endswith("drop_path_attn.scale") for name in state),
        empty_classes=tuple(training.get("head_empty_cls", ())),
    )
    return ActionFormer(config)


def from_opentad(model: Config, state: State) -> ActionFormer:
    """OpenTAD's `model` dictionary of type ActionFormer."""
    refuse_unknown(model, OPENTAD_KEYS["model"], "model")
    projection, neck, head = model["projection"], model["neck"], model["rpn_head"]
    for part, name in ((projection, "projection"), (neck, "neck"), (head, "rpn_head")):
        refuse_unknown(part, OPENTAD_KEYS[name], name)
    for name in ("conv_cfg", "attn_cfg"):
        refuse_unknown(projection[name], OPENTAD_KEYS[f"projection.{name}"], f"projection.{name}")
    for given, accepted, key in (
        (model["type"], "ActionFormer", "type"),
        (projection["type"], "Conv1DTransformerProj", "projection.type"),
        (head["type"], "ActionFormerHead", "rpn_head.type"),
    ):
        _choice(given, {accepted: accepted}, key)
    _only_layer_norm(projection.get("norm_cfg"), "projection.norm_cfg")
    embed_layers, stem_blocks, further_levels = projection["arch"]
    several = isinstance(projection["in_channels"], Sequence)
    kind = _choice(neck["type"], {"FPNIdentity": "identity", "FPN": "pyramid"}, "neck.type")
    neck_norm = neck.get("norm_cfg", {"type": "LN"} if kind == "identity" else None)
    _only_layer_norm(neck_norm, "neck.norm_cfg")
    if kind == "pyramid" and neck_norm is not None:
        raise InvalidOptions("neck.norm_cfg: a norm in OpenTAD's FPN is not supported; None is accepted")
    config = ActionFormerConfig(
        input_channels=_tuple(projection["in_channels"]),
        projected_channels=_tuple(projection["out_channels"]) if several else (),
        num_classes=head["num_classes"],
        channels=_total(projection["out_channels"]),
        heads=projection["attn_cfg"]["n_head"],
        windows=_windows(projection["attn_cfg"]["n_mha_win_size"], further_levels),
        embed_layers=embed_layers,
        embed_kernel=projection["conv_cfg"]["kernel_size"],
        stem_blocks=stem_blocks,
        neck=kind,
        neck_channels=neck["out_channels"],
        first_level=neck.get("start_level", 0),
        head_channels=head["feat_channels"],
        head_layers=head.get("num_convs", 3) + 1,
        embed_norm=projection.get("norm_cfg") is not None,
        neck_norm=neck_norm is not None,
        position_encoding=projection.get("use_abs_pe", False),
        train_length=projection.get("max_seq_len", 2304),
        dropout=projection["conv_cfg"]["proj_pdrop"],
        drop_path=projection.get("path_pdrop", 0.0),
        input_dropout=projection.get("input_pdrop", 0.0),
        residual_scale=any(name.endswith("drop_path_attn.scale") for name in state),
        prior_probability=head.get("cls_prior_prob", 0.01),
        norm_eps=1e-6,
        mask_after_norm=True,
        pyramid_depthwise=False,
    )
    return ActionFormer(config)


LAYOUTS: dict[str, Layout] = {
    "official": Layout(from_official, renamed(OFFICIAL_NAMES), (r"point_generator\..+",)),
    "opentad": Layout(from_opentad, renamed(OPENTAD_NAMES), (r"rpn_head\.loss_normalizer",)),
}


def _windows(given: int | Sequence[int], further_levels: int) -> tuple[int, ...]:
    windows = (given,) * (1 + further_levels) if isinstance(given, int) else tuple(given)
    if len(windows) != 1 + further_levels:
        raise InvalidOptions(f"n_mha_win_size {given}: one window, or {1 + further_levels} of them, are needed")
    return tuple(max(window, 0) for window in windows)


def _choice(given: str, accepted: Mapping[str, Any], key: str) -> Any:
    if given not in accepted:
        raise InvalidOptions(f"{key} is {given!r}; accepted are {', '.join(accepted)}")
    return accepted[given]


def _only_layer_norm(norm: Config | None, key: str) -> None:
    if norm is not None and norm.get("type") != "LN":
        raise InvalidOptions(f"{key} is of type {norm.get('type')!r}; LN and none are accepted")


def _tuple(given: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, Sequence) else (given,)


def _total(given: int | Sequence[int]) -> int:
    return sum(_tuple(given))
