"""Every network of the catalogue, exported to both formats, against itself; and what parity refuses."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters import parity
from exporters.export import EXPORTERS, Format, open_session
from exporters.exportable import Exportable, from_backbone, from_detector
from exporters.parity import EagerSession
from exporters.to_onnx import to_onnx
from models.catalog import DETECTORS as CATALOGUE
from service.errors import ExportFailed
from service.localization import Segment
from service.runtime.session import Session, to_numpy
from service.runtime.torchscript_session import deprecation_expected
from tests.support import networks
from tests.support.networks import SMALL_BACKBONES, SMALL_DETECTORS

FORMATS: tuple[Format, ...] = ("onnx", "torchscript")
BACKBONES = [(name, variant) for name, variants in SMALL_BACKBONES.items() for variant in variants]
DETECTORS = [(name, variant) for name, variants in SMALL_DETECTORS.items() for variant in variants]

each_network = pytest.mark.parametrize(("name", "variant"), BACKBONES + DETECTORS)
each_detector = pytest.mark.parametrize(("name", "variant"), DETECTORS)
each_format = pytest.mark.parametrize("form", FORMATS)


@cache
def network_as_graph(name: str, variant: str) -> Exportable:
    if name in SMALL_BACKBONES:
        return from_backbone(networks.backbone(name, variant))
    return from_detector(networks.detector(name, variant), CATALOGUE[name].output_kind)


@cache
def exported(name: str, variant: str, form: Format) -> bytes:
    return EXPORTERS[form](network_as_graph(name, variant))


def opened(name: str, variant: str, form: Format) -> Session:
    return open_session(exported(name, variant, form), form, name)


@each_format
@each_network
def test_a_graph_gives_what_its_network_gives_at_every_batch_size_and_length(
    name: str, variant: str, form: Format
) -> None:
    graph = network_as_graph(name, variant)
    gaps = parity.tensor_gaps(graph, opened(name, variant, form))
    assert [gap.output for gap in gaps] == [port.name for port in graph.outputs]
    assert all(gap.relative <= 2e-5 for gap in gaps)
    # Candidates of one level alone are all of group 0.
    assert all(gap.magnitude > 0 for gap in gaps if gap.output != "groups")


@each_format
@each_network
def test_a_graph_declares_what_it_takes_and_gives(name: str, variant: str, form: Format) -> None:
    graph, session = network_as_graph(name, variant), opened(name, variant, form)
    assert list(session.inputs) == [port.spec for port in graph.inputs]
    assert [spec.name for spec in session.outputs] == [port.name for port in graph.outputs]
    for port, spec in zip(graph.outputs, session.outputs, strict=True):
        assert len(spec.shape) == len(port.sizes)
        assert spec.shape[-1] == port.spec.shape[-1] or port.name == "groups"


@each_format
@each_detector
def test_padded_places_change_nothing_in_a_graph(name: str, variant: str, form: Format) -> None:
    graph, session = network_as_graph(name, variant), opened(name, variant, form)
    sizes = {axis.name: 2 * axis.multiple_of for axis in graph.axes.values()}
    features, mask = (value.numpy() for value in graph.examples(sizes))
    noisy = np.where(mask[:, None], features, np.float32(1e3))
    clean, other = (session.run({"features": values, "mask": mask}) for values in (features, noisy))
    for output, value in clean.items():
        np.testing.assert_array_equal(to_numpy(value), to_numpy(other[output]))


@each_format
@each_detector
def test_a_window_without_snippets_gives_nothing_in_a_graph(name: str, variant: str, form: Format) -> None:
    graph, session = network_as_graph(name, variant), opened(name, variant, form)
    sizes = {axis.name: 2 * axis.multiple_of for axis in graph.axes.values()}
    features, mask = (value.numpy() for value in graph.examples(sizes))
    found = session.run({"features": features, "mask": np.zeros_like(mask)})
    spans = found.pop("spans", np.zeros(0))
    found.pop("groups", None)
    assert found
    assert not any(to_numpy(strength).any() for strength in found.values())
    assert np.isfinite(to_numpy(spans)).all()


@each_network
def test_an_onnx_graph_is_one_file_that_tells_nothing_of_the_machine(name: str, variant: str) -> None:
    content = exported(name, variant, "onnx")
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content


@each_network
def test_a_torchscript_graph_tells_nothing_of_the_machine(name: str, variant: str) -> None:
    with zipfile.ZipFile(io.BytesIO(exported(name, variant, "torchscript"))) as archive:
        for entry in archive.namelist():
            assert str(Path(__file__).parents[2]).encode() not in archive.read(entry), entry


@each_network
def test_a_torchscript_graph_is_tied_to_no_device(name: str, variant: str) -> None:
    with deprecation_expected():
        module = torch.jit.load(io.BytesIO(exported(name, variant, "torchscript")))
    assert "device=" not in module.code


class Branching(nn.Module):
    """Decides on the numbers that it sees, which no graph can follow."""

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = features[:, :3].transpose(1, 2) * mask[..., None]
        sign = 1.0 if float(features.sum()) > 0 else -1.0
        return torch.zeros(*mask.shape, 2) + mask[..., None], scores * sign, torch.zeros(mask.shape[1]).long()


def like_a_detector(module: nn.Module) -> Exportable:
    graph = network_as_graph("actionformer", "local")
    return Exportable(module.eval(), graph.inputs, graph.outputs)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_network_that_decides_on_numbers_is_refused() -> None:
    graph = like_a_detector(Branching())
    with pytest.raises(ExportFailed, match="ONNX export"):
        EXPORTERS["onnx"](graph)
    traced = EXPORTERS["torchscript"](graph)
    with pytest.raises(ExportFailed, match=r"output 'scores' on .* differs by"):
        parity.tensor_gaps(graph, open_session(traced, "torchscript", "branching"))


def test_a_graph_of_other_weights_is_refused() -> None:
    other = from_detector(networks.detector("actionformer", "local"))
    with torch.no_grad():
        other.module.get_parameter("network.regress.answer.conv.bias").add_(0.5)
    with pytest.raises(ExportFailed, match=r"output 'spans' on B = 1, T = 2 differs by .* is allowed"):
        parity.tensor_gaps(other, opened("actionformer", "local", "onnx"))


def test_a_graph_that_is_tied_to_one_length_is_refused() -> None:
    class Tied(nn.Module):
        def forward(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            length = int(mask.shape[1])
            steps = torch.arange(length, dtype=torch.float32)
            spans = torch.stack([steps, steps + 1], dim=1).expand(mask.shape[0], length, 2)
            return spans, features[:, :3].transpose(1, 2) * mask[..., None], torch.zeros(length).long()

    graph = like_a_detector(Tied())
    with pytest.raises(ExportFailed, match=r"T = "):
        parity.tensor_gaps(graph, open_session(EXPORTERS["torchscript"](graph), "torchscript", "tied"))


def test_lengths_are_multiples_and_batches_vary() -> None:
    found = list(parity.cases(network_as_graph("actionformer", "local").axes.values()))
    assert {case["B"] for case in found} == {1, 2, 3}
    assert {case["T"] for case in found} == {2, 6, 16, 42}
    assert len(found) == 12


def test_masks_of_examples_have_real_steps_before_padded_ones() -> None:
    graph = network_as_graph("actionformer", "local")
    _, mask = graph.examples({"B": 20, "T": 12}, seed=3)
    assert mask[:, 0].all()
    assert (mask[:, 1:] <= mask[:, :-1]).all()
    assert 0 < (~mask).sum() < mask.numel()


def test_the_eager_session_gives_only_what_is_wanted() -> None:
    graph = network_as_graph("actionformer", "local")
    features, mask = graph.examples({"B": 1, "T": 8})
    feeds: dict[str, Any] = {"features": features.numpy(), "mask": mask.numpy()}
    assert set(EagerSession(graph).run(feeds, want=["scores"])) == {"scores"}


A, B, C = Segment(1.0, 2.0, "a", 0.9), Segment(3.0, 4.0, "b", 0.5), Segment(5.0, 6.0, "a", 0.1)


def moved(segment: Segment, seconds: float = 0.0, score: float = 0.0) -> Segment:
    return Segment(segment.start_s + seconds, segment.end_s, segment.label, segment.score + score)


def test_answers_may_differ_within_tolerance_and_in_the_order_of_ties() -> None:
    assert parity.match([A, B, C], [A, B, C], "x") == (3, 0)
    assert parity.match([moved(B, 1e-3), moved(A, score=5e-5), C], [A, B, C], "x") == (3, pytest.approx(1e-3))
    assert parity.match([], [], "x") == (0, 0)


def test_the_last_of_nearly_equal_segments_may_be_another() -> None:
    other = Segment(7.0, 8.0, "b", C.score + 5e-5)
    assert parity.match([A, B, other], [A, B, C], "x") == (2, 0)


def test_ties_excuse_neither_other_counts_nor_other_answers() -> None:
    ties = [Segment(float(n), n + 1.0, "a", 0.5) for n in range(20)]
    for found in ([], ties[:10], [moved(tie, 0.5) for tie in ties]):
        with pytest.raises(ExportFailed, match="is only in"):
            parity.match(found, ties, "x")


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([A, C], "'b' from 3.000 to 4.000 s, score 0.5000, is only in the network's answer"),
        ([A, B, C, moved(B, 0.5)], "only in the exported graphs' answer"),
        ([moved(A, 0.01), B, C], "'a' from 1.000"),
        ([moved(A, score=0.01), B, C], "'a' from 1.000"),
        ([Segment(1.0, 2.0, "b", 0.9), B, C], "'a' from 1.000"),
        ([A, A, B, C], "only in the exported graphs' answer"),
    ],
)
def test_other_answers_are_refused(found: list[Segment], told: str) -> None:
    with pytest.raises(ExportFailed, match=told):
        parity.match(found, [A, B, C], "x")


def test_the_opset_is_one_that_serving_reads() -> None:
    model = onnx.load_from_string(to_onnx(network_as_graph("actionformer", "fixed length")))
    assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
    assert model.ir_version <= 10
