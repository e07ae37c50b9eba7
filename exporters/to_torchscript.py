"""A network and the sizes of its inputs in, a TorchScript archive as bytes out, with the names of its tensors in it."""

from __future__ import annotations

import io
import warnings
import zipfile
from typing import Any

import torch

from exporters.exportable import Exportable
from service.errors import ExportFailed, first_line
from service.runtime.torchscript_session import IO_FILE, deprecation_expected, io_json


def to_torchscript(exportable: Exportable) -> bytes:
    """Traced, so the network must take no decision on the numbers that it sees; parity tells whether it does."""
    sizes = {axis.name: axis.example for axis in exportable.axes.values()}
    names = io_json([port.spec for port in exportable.inputs], [port.spec for port in exportable.outputs])
    archive = io.BytesIO()
    try:
        with torch.no_grad(), deprecation_expected(), warnings.catch_warnings():
            jit: Any = torch.jit  # typed in part only
            warnings.simplefilter("ignore", jit.TracerWarning)
            traced = jit.trace(exportable.module, exportable.examples(sizes), check_trace=False)
            jit.save(jit.freeze(traced), archive, _extra_files={IO_FILE: names})
    except Exception as error:
        raise ExportFailed(f"TorchScript export: {first_line(error)}") from error
    return _without_sources(archive)


def _without_sources(archive: io.BytesIO) -> bytes:
    """The archive less its debug files: they hold stack traces, with the paths of the machine that exported."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(stripped, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(entry, old.read(entry))
    return stripped.getvalue()
