"""TadTR as its authors write it down: their options and weight names, against ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.detectors.tadtr import TadTR
from models.detectors.tadtr_config import TadTRConfig
from service.errors import InvalidOptions

# What shapes the network, with the values that their options have where a file leaves them out.
OPTIONS: dict[str, Any] = {
    "enc_layers": 2,
    "dec_layers": 4,
    "dim_feedforward": 2048,
    "hidden_dim": 256,
    "nheads": 8,
    "enc_n_points": 4,
    "dec_n_points": 4,
    "num_queries": 30,
    "dropout": 0.1,
    "activation": "relu",
    "seg_refine": True,
    "act_reg": True,
    "disable_query_self_att": False,
    "use_pos_embed": True,
    "position_embedding": "sine",
    "online_slice": False,
    "slice_len": 128,
}
# Options of data, training and output. How many channels features have and how many classes there are, weights say.
OTHER_OPTIONS = {
    *("tensorboard", "disable_cuda", "dfm_att_backend", "output_dir", "dataset_name", "input_type", "feature"),
    *("feature_dim", "binary", "test_set", "slice_overlap", "test_slice_overlap", "backbone", "aux_loss"),
    *("act_loss_coef", "cls_loss_coef", "seg_loss_coef", "iou_loss_coef", "eos_coef", "focal_alpha"),
    *("set_cost_class", "set_cost_seg", "set_cost_iou", "lr", "lr_backbone_names", "lr_backbone"),
    *("lr_linear_proj_names", "lr_linear_proj_mult", "optimizer", "batch_size", "weight_decay", "clip_max_norm"),
    *("epochs", "lr_step", "ckpt_interval", "iter_size", "test_interval", "num_feature_levels"),
    *("postproc_rank", "postproc_cls_topk", "postproc_ins_topk", "nms_thr"),
}
FEATURES, CLASSES = "input_proj.0.0.weight", "class_embed.0.weight"

# Our names, rewritten rule by rule; the first that matches wins.
NAMES = (
    (r"project\.(\d)\.(.+)", r"input_proj.0.\1.\2"),
    (r"queries", r"query_embed.weight"),
    (r"(level_embed|reference_points\..+)", r"transformer.\1"),
    (r"encoder\.(\d+)\.attention\.(.+)", r"transformer.encoder.layers.\1.self_attn.\2"),
    (r"encoder\.(\d+)\.attention_norm\.(.+)", r"transformer.encoder.layers.\1.norm1.\2"),
    (r"encoder\.(\d+)\.feed\.norm\.(.+)", r"transformer.encoder.layers.\1.norm2.\2"),
    (r"decoder\.(\d+)\.self_attention\.in_proj\.(.+)", r"transformer.decoder.layers.\1.self_attn.in_proj_\2"),
    (r"decoder\.(\d+)\.self_attention\.(.+)", r"transformer.decoder.layers.\1.self_attn.\2"),
    (r"decoder\.(\d+)\.self_norm\.(.+)", r"transformer.decoder.layers.\1.norm2.\2"),
    (r"decoder\.(\d+)\.cross_attention\.(.+)", r"transformer.decoder.layers.\1.cross_attn.\2"),
    (r"decoder\.(\d+)\.cross_norm\.(.+)", r"transformer.decoder.layers.\1.norm1.\2"),
    (r"decoder\.(\d+)\.feed\.norm\.(.+)", r"transformer.decoder.layers.\1.norm3.\2"),
    (r"(encoder|decoder)\.(\d+)\.feed\.expand\.(.+)", r"transformer.\1.layers.\2.linear1.\3"),
    (r"(encoder|decoder)\.(\d+)\.feed\.contract\.(.+)", r"transformer.\1.layers.\2.linear2.\3"),
    (r"classify\.(\d+)\.(.+)", r"class_embed.\1.\2"),
    (r"locate\.(.+)", r"segment_embed.\1"),
    (r"judge\.layers\.0\.(.+)", r"actionness_pred.0.\1"),
    (r"judge\.layers\.1\.(.+)", r"actionness_pred.2.\1"),
    (r"judge\.layers\.2\.(.+)", r"actionness_pred.4.\1"),
)
# Segment heads stand in their files twice; weights of parts that are switched off stay there.
LEFT_OUT = (
    r"transformer\.decoder\.segment_embed\..+",
    r"transformer\.level_embed",
    r"transformer\.decoder\.layers\.\d+\.(self_attn|norm2)\..+",
)


def from_official(options: Mapping[str, Any], state: State) -> TadTR:
    """The options of the authors' code, as a configuration file or all of them."""
    refuse_unknown(options, OPTIONS.keys() | OTHER_OPTIONS, "options")
    given = {**OPTIONS, **options}
    if given["position_embedding"] not in ("sine", "v2"):
        raise InvalidOptions(f"position_embedding is {given['position_embedding']!r}; accepted are sine, v2")
    sizes = {name.removeprefix("module."): value.shape for name, value in state.items()}
    for name in (FEATURES, CLASSES):
        if name not in sizes:
            raise InvalidOptions(f"the weights have no {name}, which says how wide the network is")
    config = TadTRConfig(
        input_channels=(sizes[FEATURES][1],),
        num_classes=sizes[CLASSES][0],
        channels=given["hidden_dim"],
        heads=given["nheads"],
        encoder_layers=given["enc_layers"],
        encoder_points=given["enc_n_points"],
        decoder_layers=given["dec_layers"],
        decoder_points=given["dec_n_points"],
        feedforward_channels=given["dim_feedforward"],
        activation=given["activation"],
        queries=given["num_queries"],
        length=given["slice_len"] or OPTIONS["slice_len"],
        padding="zeros" if given["online_slice"] else "masked",
        refine=given["seg_refine"],
        actionness=given["act_reg"],
        query_attention=not given["disable_query_self_att"],
        positions=given["use_pos_embed"],
        dropout=given["dropout"],
    )
    return TadTR(config)


LAYOUTS: dict[str, Layout] = {"official": Layout(from_official, renamed(NAMES), LEFT_OUT)}
