"""A network and the sizes of its inputs in, an ONNX graph as bytes out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from exporters.exportable import Axis, Exportable, Port
from service.errors import ExportFailed, first_line

OPSET = 20


def to_onnx(exportable: Exportable) -> bytes:
    """One file without external data; free axes stay free."""
    sizes = {axis.name: axis.example for axis in exportable.axes.values()}
    dims = {axis.name: _dim(axis) for axis in exportable.axes.values()}
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            # The exporter warns of its own internals; whether the graph is right is told by parity, not by warnings.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exportable.module,
                exportable.examples(sizes),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[port.name for port in exportable.inputs],
                output_names=[port.name for port in exportable.outputs],
                dynamic_shapes=tuple(_free_axes(port, dims) for port in exportable.inputs),
            )
    except Exception as error:
        raise ExportFailed(f"ONNX export: {first_line(error)}") from error
    if program is None:
        raise ExportFailed("ONNX export: torch.onnx gave no program")
    content: bytes = _stripped(program.model_proto).SerializeToString()
    return content


def _stripped(model: Any) -> Any:
    """Without what only the exporter needed."""
    # Sizes of values between nodes: it calls different ones by one name, and ONNX Runtime plans its memory by them.
    del model.graph.value_info[:]
    # Stack traces, with the paths of the machine that exported.
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def _dim(axis: Axis) -> Any:
    if axis.multiple_of == 1:
        return torch.export.Dim(axis.name, min=1, max=1 << 20)
    return axis.multiple_of * torch.export.Dim(f"{axis.name}_units", min=1, max=1 << 20)


def _free_axes(port: Port, dims: dict[str, Any]) -> dict[int, Any]:
    return {place: dims[size.name] for place, size in enumerate(port.sizes) if isinstance(size, Axis)}


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx reports its progress through logging, at a level that a terminal shows."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
