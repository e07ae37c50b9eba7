"""The door for official weights: what fits is loaded, what does not is told by its published name."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters import published
from models.detectors import actionformer_config
from models.detectors.actionformer import ActionFormer
from service.errors import InvalidOptions, WeightsMismatch
from tests.support import golden


@pytest.fixture
def known() -> golden.GoldenSet:
    return golden.read("actionformer/local")


def test_a_weight_of_another_shape_is_told_with_both_shapes(known: golden.GoldenSet) -> None:
    state = {**known.state, "backbone.embd.0.conv.weight": torch.zeros(32, 20, 3)}
    with pytest.raises(
        WeightsMismatch,
        match=r"backbone\.embd\.0\.conv\.weight: expected \(32, 24, 3\), found \(32, 20, 3\)",
    ):
        published.load("actionformer", "official", state, known.config["model"])


def test_a_missing_weight_is_told_by_its_published_name(known: golden.GoldenSet) -> None:
    state = {name: value for name, value in known.state.items() if name != "reg_head.scale.2.scale"}
    with pytest.raises(WeightsMismatch, match=r"reg_head\.scale\.2\.scale: expected \(\), found nothing"):
        published.load("actionformer", "official", state, known.config["model"])


def test_a_weight_without_a_place_is_told(known: golden.GoldenSet) -> None:
    state = {**known.state, "backbone.more.weight": torch.zeros(2, 3)}
    with pytest.raises(WeightsMismatch, match=r"backbone\.more\.weight: expected nothing of this name, found \(2, 3\)"):
        published.load("actionformer", "official", state, known.config["model"])


def test_weights_with_axes_of_other_order_do_not_fit(known: golden.GoldenSet) -> None:
    name = "backbone.stem.0.mlp.0.weight"
    with pytest.raises(WeightsMismatch, match=r"expected \(128, 32, 1\), found \(32, 128, 1\)"):
        published.load(
            "actionformer", "official", {**known.state, name: known.state[name].transpose(0, 1)}, known.config["model"]
        )


def test_many_misfits_are_counted(known: golden.GoldenSet) -> None:
    with pytest.raises(WeightsMismatch, match=r"; and \d+ more"):
        published.load("actionformer", "official", {}, known.config["model"])


@pytest.mark.parametrize(
    ("system", "layout", "told"),
    [
        ("actionformr", "official", "system 'actionformr' is not known; accepted are actionformer, .*i3d, .*tsn"),
        ("actionformer", "mmaction", "actionformer has no layout 'mmaction'; accepted are official, opentad"),
    ],
)
def test_unknown_systems_and_layouts_are_told_with_the_known_ones(system: str, layout: str, told: str) -> None:
    with pytest.raises(InvalidOptions, match=told):
        published.load(system, layout, {}, {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backbone_type": "mamba"}, "backbone_type is 'mamba'; accepted are convTransformer, conv"),
        ({"fpn_type": "bifpn"}, "fpn_type is 'bifpn'; accepted are identity, fpn"),
        ({"n_mha_win_size": [9, 9]}, "5 of them, are needed"),
        ({"n_head": 5}, "heads 5"),
        ({"head_act": "gelu"}, "model has unknown keys head_act"),
    ],
)
def test_options_that_mean_nothing_here_are_told(known: golden.GoldenSet, change: dict, told: str) -> None:
    with pytest.raises(InvalidOptions, match=told):
        published.load("actionformer", "official", known.state, {**known.config["model"], **change})


def test_what_a_published_configuration_leaves_out_takes_its_defaults() -> None:
    given = {"fpn_type": "identity", "max_buffer_len_factor": 6.0, "n_mha_win_size": 19}
    sizes = {"input_dim": 2048, "num_classes": 20, "max_seq_len": 2304}
    with torch.device("meta"):
        form = published.find_layout("actionformer", "official")
        network = form.build({**given, **sizes}, {"x.drop_path_attn.scale": torch.zeros(1)})
    assert network.config == actionformer_config.thumos()


def test_a_configuration_with_a_gap_is_told(known: golden.GoldenSet) -> None:
    config = {key: value for key, value in known.config["model"].items() if key != "input_dim"}
    with pytest.raises(InvalidOptions, match="the configuration lacks 'input_dim'"):
        published.load("actionformer", "official", known.state, config)


OPTIONS = [
    {"backbone_type": "conv"},
    {"embd_with_ln": False, "fpn_with_ln": False, "head_with_ln": False},
    {"fpn_type": "fpn", "fpn_dim": 16, "fpn_start_level": 1},
    {"use_rel_pe": True, "use_abs_pe": True},
    {"input_dim": [10, 14], "embd_dim": [20, 12]},
    {"scale_factor": 4, "backbone_arch": [1, 0, 2], "head_num_layers": 1, "n_mha_win_size": [9, 7, -1]},
    {"train_cfg": {"droppath": 0.0, "dropout": 0.1, "head_empty_cls": [1]}},
]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_every_option_keeps_its_weights_under_published_names(known: golden.GoldenSet, changes: dict) -> None:
    config = {**known.config["model"], **changes}
    scaled = "train_cfg" not in changes
    form = published.find_layout("actionformer", "official")
    network = form.build(config, {"x.drop_path_attn.scale": torch.zeros(1)} if scaled else {})
    state = {form.published_name(name): torch.randn_like(value) for name, value in network.state_dict().items()}
    loaded = published.load("actionformer", "official", state, config)
    assert isinstance(loaded, ActionFormer)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[form.published_name(name)])


def test_weights_are_found_where_checkpoints_keep_them(known: golden.GoldenSet, tmp_path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in known.state.items()}
    worse = {name: torch.zeros_like(value) for name, value in wrapped.items()}
    torch.save({"epoch": 34, "state_dict": worse, "state_dict_ema": wrapped}, tmp_path / "epoch_034.pth.tar")
    state = published.read(tmp_path / "epoch_034.pth.tar")
    network = published.load("actionformer", "official", state, known.config["model"])
    weight = known.state["cls_head.cls_head.conv.weight"]
    assert torch.equal(network.state_dict()["classify.answer.conv.weight"], weight)


def test_arrays_are_read_too(known: golden.GoldenSet) -> None:
    state = published.read(golden.ROOT / "actionformer" / "local" / "state.npz")
    assert set(state) == set(known.state)


class Trap:
    """What a malicious checkpoint does: run something of its own while it is unpickled."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("code from a checkpoint was run",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "objects.npz", weight=np.array([Trap()], dtype=object))
    for name in ("trap.pth", "plain.pth", "objects.npz"):
        with pytest.raises(InvalidOptions, match="no weights that load without running code"):
            published.read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"state_dict": {}}, "not named weights"),
        ({"lr": 0.1}, "entry 'lr' is float, not a tensor by name"),
        ([1], "holds list"),
    ],
)
def test_a_file_without_weights_is_told(content: object, told: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InvalidOptions, match=told):
        published.read(tmp_path / "file.pth")


def test_damaged_files_are_told_whatever_they_break(known: golden.GoldenSet, tmp_path: Path) -> None:
    torch.save(known.state, tmp_path / "whole.pth")
    np.savez(tmp_path / "whole.npz", weight=np.arange(1000.0))
    np.save(tmp_path / "array.npy", np.arange(3.0))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez(tmp_path / "text.npz", weight=np.array(["a"]))
    draw = np.random.default_rng(0)
    damaged = [tmp_path / "array.npz", tmp_path / "text.npz"]
    for number, name in enumerate(["whole.pth", "whole.npz"] * 40):
        content = bytearray((tmp_path / name).read_bytes())
        for place in draw.integers(0, len(content), 20):
            content[place] = draw.integers(0, 256)
        path = tmp_path / f"{number}{Path(name).suffix}"
        path.write_bytes(content[: draw.integers(1, len(content))] if number % 4 < 2 else content)
        damaged.append(path)
    refused = 0
    for path in damaged:
        try:
            published.read(path)
        except InvalidOptions:
            refused += 1
    assert refused > 40


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match="No such file"):
        published.read(tmp_path / "none.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(InvalidOptions, match=r"noise\.pth: no weights"):
        published.read(tmp_path / "noise.pth")
