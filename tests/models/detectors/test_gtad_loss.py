"""G-TAD's loss against the numbers of the public implementations, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exporters import published
from models import geometry
from models.detectors import gtad_loss
from models.detectors.detector import Targets
from models.detectors.gtad import Gtad
from models.detectors.gtad_config import GtadConfig
from models.detectors.gtad_loss import GtadLoss, GtadLossConfig, MapLabels
from tests.models.detectors.test_gtad import BRANCHES, SETS, whole
from tests.support import golden, learning, networks
from tests.support.golden import GoldenSet

LAYOUT_CONFIGS = {
    "master": gtad_loss.thumos(),
    "anet": gtad_loss.activitynet(),
    "opentad": gtad_loss.opentad(),
}


def positions(layout: str, known: GoldenSet, video: int) -> tuple[np.ndarray, GtadLossConfig]:
    """Annotated spans on the grid; where master's map begins hangs on a half frame that it cuts off."""
    given, config = known.inputs, LAYOUT_CONFIGS[layout]
    if layout == "master":
        first = int(given[f"gt/{video}/window_first_frame"])
        spans = (given[f"gt/{video}/segments_frames"] - first) / 5
        return spans, replace(config, map_start=(int(first - 2.5) - first) / 5)
    spans = given[f"gt/{video}/segments"]
    if layout == "anet":
        frames = given[f"gt/{video}/feature_frame"] / given[f"gt/{video}/duration_frame"]
        spans = np.clip(spans / (frames * given[f"gt/{video}/duration_second"]), 0, 1) * known.inputs["x"].shape[2]
    return spans - 0.5, config


def labels_of(layout: str, known: GoldenSet, network: torch.nn.Module) -> MapLabels:
    found = []
    for video in range(len(known.inputs["x"])):
        spans, config = positions(layout, known, video)
        target = Targets(torch.from_numpy(spans.astype(np.float32)), torch.zeros(len(spans), dtype=torch.int64))
        found.append(GtadLoss(config, network.config).labels([target]))
    return MapLabels(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def published_network(layout: str) -> tuple[GoldenSet, torch.nn.Module]:
    known = golden.read(SETS[layout])
    return known, published.load("gtad", layout, known.state, known.config.get("opt") or known.config["model"])


@pytest.mark.parametrize("layout", BRANCHES)
def test_labels_equal_the_published_ones(layout: str) -> None:
    known, network = published_network(layout)
    labels = labels_of(layout, known, network)
    for name, value in (("start", labels.starts), ("end", labels.ends), ("iou_map", labels.overlaps)):
        np.testing.assert_allclose(value, known.outputs[f"label/{name}"], atol=1e-6)


def test_labels_equal_opentads() -> None:
    known, network = published_network("opentad")
    labels = labels_of("opentad", known, network)
    np.testing.assert_array_equal(labels.starts, known.outputs["target/start"])
    np.testing.assert_array_equal(labels.ends, known.outputs["target/end"])
    valid = known.outputs["target/valid_mask"].astype(bool)
    np.testing.assert_allclose(labels.overlaps[:, valid], known.outputs["target/iou_valid_only"], atol=1e-6)


def published_labels(known: GoldenSet) -> MapLabels:
    """Their overlaps hold 1e-16 where ours hold 0, and what is above 0 counts as a low overlap."""
    return MapLabels(*(torch.from_numpy(known.outputs[f"label/{name}"]) for name in ("iou_map", "start", "end")))


def check_gradients(layout: str, known: GoldenSet, network: torch.nn.Module, rtol: float) -> None:
    name = published.find_layout("gtad", layout).published_name
    for ours, weight in network.named_parameters():
        assert weight.grad is not None, ours
        expected = float(known.outputs[f"grad_norm/{name(ours)}"])
        assert weight.grad.norm().item() == pytest.approx(expected, rel=rtol, abs=1e-6), ours


@pytest.mark.parametrize("layout", BRANCHES)
def test_losses_and_gradients_equal_the_published_ones(layout: str) -> None:
    known, network = published_network(layout)
    draws = tuple(torch.from_numpy(known.inputs[name]) for name in ("rand_m", "rand_l"))
    loss = GtadLoss(LAYOUT_CONFIGS[layout], network.config)
    found = loss.losses(network(*whole(known)), published_labels(known), draws)
    parts = {name: part.item() for name, part in found.parts.items()}
    wanted = {name.removeprefix("loss/"): float(v) for name, v in known.outputs.items() if name.startswith("loss/")}
    assert found.total.item() == pytest.approx(wanted["total"], rel=1e-5)
    if layout == "master":
        assert parts["boundary"] == pytest.approx(wanted["node"], rel=1e-5)
        assert parts["regression"] + 10 * parts["classification"] == pytest.approx(wanted["subgraph"], rel=1e-5)
        for name, theirs in (("regression", "pem_reg"), ("classification", "pem_cls")):
            assert parts[name] == pytest.approx(float(known.outputs[f"loss_bmn_variant/{theirs}"]), rel=1e-5)
    else:
        for name, theirs in (("boundary", "tem"), ("regression", "pem_reg"), ("classification", "pem_cls")):
            assert parts[name] == pytest.approx(wanted[theirs], rel=1e-5)
    found.total.backward()
    check_gradients(layout, known, network, 1e-3)


def test_losses_and_gradients_equal_opentads(monkeypatch: pytest.MonkeyPatch) -> None:
    known, network = published_network("opentad")
    align = network.align.forward

    def in_half(x: torch.Tensor) -> torch.Tensor:
        return x + (x.half().float() - x).detach()

    monkeypatch.setattr(network.align, "forward", lambda x, context, mask: align(in_half(x), in_half(context), mask))
    valid = torch.from_numpy(known.outputs["target/valid_mask"].astype(bool))
    draws = []
    for name in ("rand/0", "rand/1"):
        draw = torch.zeros(len(known.inputs["x"]), *valid.shape)
        draw[:, valid] = torch.from_numpy(known.outputs[name])
        draws.append(draw)
    loss = GtadLoss(gtad_loss.opentad(), network.config)
    found = loss.losses(network(*whole(known)), labels_of("opentad", known, network), tuple(draws))
    wanted = {name: float(known.outputs[f"loss/loss_{name}"]) for name in ("tem", "cls", "reg")}
    assert found.parts["boundary"].item() == pytest.approx(wanted["tem"], rel=1e-5)
    assert found.parts["classification"].item() == pytest.approx(wanted["cls"], rel=1e-5)
    assert 10 * found.parts["regression"].item() == pytest.approx(wanted["reg"], rel=1e-5)
    assert found.total.item() == pytest.approx(float(known.outputs["loss/cost"]), rel=1e-5)
    found.total.backward()
    check_gradients("opentad", known, network, 1e-3)


def test_padded_snippets_are_asked_nothing() -> None:
    network = networks.detector("gtad", "windows")
    loss = GtadLoss(GtadLossConfig(), network.config)
    mask = torch.arange(16) < torch.tensor([[9]])
    outputs = network(torch.randn(1, 8, 16), mask)
    targets = [Targets(torch.tensor([[1.0, 4.0]]), torch.tensor([0]))]
    labels = loss.labels(targets)
    draws = (torch.rand(1, 8, 16), torch.rand(1, 8, 16))
    before = loss.losses(outputs, labels, draws).total
    beyond = torch.arange(16) >= 9
    moved = outputs._replace(starts=outputs.starts + 5 * beyond, ends=outputs.ends - 5 * beyond)
    ends_beyond = (torch.arange(16) + torch.arange(1, 9)[:, None]) > 9
    moved = moved._replace(overlap=moved.overlap + 3 * ends_beyond, high=moved.high - 3 * ends_beyond)
    assert loss.losses(moved, labels, draws).total.item() == pytest.approx(before.item(), rel=1e-6)


def test_a_window_without_actions_gives_finite_losses() -> None:
    network = networks.detector("gtad", "windows")
    loss = GtadLoss(gtad_loss.thumos(), network.config)
    outputs = network(torch.randn(1, 8, 16), torch.ones(1, 16, dtype=torch.bool))
    found = loss(outputs, [Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))])
    assert torch.isfinite(found.total)
    assert found.parts["regression"].item() == 0


def test_it_learns_where_actions_are() -> None:
    torch.manual_seed(0)
    config = GtadConfig(
        (2,),
        channels=16,
        pooled_channels=16,
        head_channels=16,
        length=learning.LENGTH,
        max_duration=16,
        inner_bins=4,
        context_bins=4,
        stem_groups=2,
        graph_groups=4,
        graph_width=16,
    )
    network, wanted = Gtad(config), learning.AROUND_STEPS._replace(labels=torch.zeros(2, dtype=torch.int64))
    first, last = learning.learn(network, GtadLoss(GtadLossConfig(), config), wanted)
    assert last.total.item() < 0.2 * first.total.item()
    with torch.inference_mode():
        found = network.decode(network(learning.FEATURES, learning.MASK))
    kept = geometry.suppress(
        found.spans[0], found.scores[0, :, 0], np.zeros(len(found.spans[0]), int), geometry.Nms("hard", 0.5, max_kept=2)
    )
    np.testing.assert_allclose(kept.spans[kept.spans[:, 0].argsort()], wanted.spans, atol=1)
    assert kept.scores.min() > 0.5


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="spare is -1"):
        GtadLossConfig(spare=-1.0)
