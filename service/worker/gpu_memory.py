"""The driver's word on a GPU's memory in, a gauge of it out; on a machine without one, nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

MIB = 1024 * 1024
ANSWER_S = 5.0
KINDS = ("used", "total")


class GpuMemory(Collector):
    """Asked at each scrape."""

    def __init__(self, gpu_index: int) -> None:
        self._command = shutil.which("nvidia-smi")
        self._index = gpu_index

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily("tal_gpu_memory_bytes", "Memory of the GPU that models run on", labels=["kind"])
        for kind, size_bytes in self._read().items():
            gauge.add_metric([kind], size_bytes)
        yield gauge

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return iter(())

    def _read(self) -> dict[str, int]:
        if self._command is None:
            return {}
        fields = ",".join(f"memory.{kind}" for kind in KINDS)
        command = [self._command, f"--query-gpu={fields}", "--format=csv,noheader,nounits", f"--id={self._index}"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout
            return {kind: int(text) * MIB for kind, text in zip(KINDS, said.split(","), strict=True)}
        except (OSError, subprocess.SubprocessError, ValueError):
            return {}
