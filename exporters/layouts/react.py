"""ReAct as its authors write it down: their configuration and weight names, against ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.layouts.layout import Layout, State, refuse_unknown, renamed
from models.detectors.react import ReAct
from models.detectors.react_config import ReActConfig

# What the released configuration file holds; a line each: the network, windows and test, weights of losses.
OFFICIAL_KEYS = {
    *("input_feat_dim", "num_class", "feat_dim", "n_head", "encoder_sample_num", "decoder_sample_num"),
    *("num_encoder_layers", "num_decoder_layers", "num_queries", "clip_len", "stride_rate", "test_bg_thershold"),
    *("K", "coef_l1", "coef_iou", "coef_ce", "coef_aceenc", "coef_acedec", "coef_quality", "coef_iou_decay"),
}
OURS = {"overlap_up_to": 0.2, "similarity_above": 0.2, "padded_positions": True}
ATTENTION = r"(sampling_offsets|value_proj)\.(.+)"
OFFICIAL_NAMES = (
    (r"project\.(.+)", r"input_proj.layers.0.\1"),
    (r"queries\.weight", r"query_embed.weight"),
    (r"first_centre\.(.+)", r"transformer.decoder.reference_point.\1"),
    (r"last_norm\.(.+)", r"transformer.decoder.norm.\1"),
    (r"encoder\.(\d+)\.norm\.(.+)", r"transformer.encoder.layers.\1.norm1.\2"),
    (r"decoder\.(\d+)\.self_attn\.query\.(.+)", r"transformer.decoder.layers.\1.self_attn.Q.\2"),
    (r"decoder\.(\d+)\.self_attn\.key\.(.+)", r"transformer.decoder.layers.\1.self_attn.K.\2"),
    (r"decoder\.(\d+)\.self_attn\.value\.(.+)", r"transformer.decoder.layers.\1.self_attn.V.\2"),
    (r"decoder\.(\d+)\.(norm\d)\.(.+)", r"transformer.decoder.layers.\1.\2.\3"),
    (r"(encoder|decoder)\.(\d+)\.widen\.(.+)", r"transformer.\1.layers.\2.linear1.\3"),
    (r"(encoder|decoder)\.(\d+)\.narrow\.(.+)", r"transformer.\1.layers.\2.linear2.\3"),
    (r"(encoder|decoder)\.(\d+)\.(self|cross)_attn\." + ATTENTION, r"transformer.\1.layers.\2.\3_attn.\4.\5"),
    (
        r"(encoder|decoder)\.(\d+)\.(self|cross)_attn\.attention_weights\.(.+)",
        r"transformer.\1.layers.\2.\3_attn.atten_weight.\4",
    ),
    (
        r"(encoder|decoder)\.(\d+)\.(self|cross)_attn\.output_proj\.(.+)",
        r"transformer.\1.layers.\2.\3_attn.out_proj.\4",
    ),
    (r"classify\.(\d+)\.(.+)", r"class_embed.\1.\2"),
    (r"move\.(\d+)\.layers\.(.+)", r"segment_embed.\1.layers.\2"),
    (r"overlap\.(.+)", r"iou_predictor.\1"),
    (r"centredness\.(.+)", r"cen_predictor.\1"),
)


def from_official(model: Mapping[str, Any], state: State) -> ReAct:
    """The `model` part of their configuration, and three options of ours, which by default are what their code does."""
    refuse_unknown(model, {*OFFICIAL_KEYS, *OURS}, "model")
    config = ReActConfig(
        input_channels=(model["input_feat_dim"],),
        num_classes=model["num_class"],
        channels=model["feat_dim"],
        heads=model["n_head"],
        feed_forward=next(len(bias) for name, bias in state.items() if name.endswith("decoder.layers.0.linear1.bias")),
        encoder_layers=model["num_encoder_layers"],
        encoder_points=model["encoder_sample_num"],
        decoder_layers=model["num_decoder_layers"],
        decoder_points=model["decoder_sample_num"],
        queries=model["num_queries"],
        train_length=model["clip_len"],
        **{name: model.get(name, theirs) for name, theirs in OURS.items()},
    )
    return ReAct(config)


# Their decoder knows the heads for segments by a second name; the encoder's second norm is never applied.
LAYOUTS: dict[str, Layout] = {
    "official": Layout(
        from_official,
        renamed(OFFICIAL_NAMES),
        (r"transformer\.decoder\.segment_embed\..+", r"transformer\.encoder\.layers\.\d+\.norm2\..+"),
    ),
}
