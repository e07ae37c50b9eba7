"""What the driver's program says, and what becomes of it in the metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.worker.gpu_memory import GpuMemory


def scraped(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> list[str]:
    if script is not None:
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    registry = CollectorRegistry()
    registry.register(GpuMemory(1))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_used_and_total_memory_are_told_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scraped(tmp_path, monkeypatch, 'case "$*" in *--id=1*) echo "3, 80";; *) exit 1;; esac')
    assert found == [
        'tal_gpu_memory_bytes{kind="used"} 3.145728e+06',
        'tal_gpu_memory_bytes{kind="total"} 8.388608e+07',
    ]


@pytest.mark.parametrize("script", [None, "exit 9", "echo [N/A], [N/A]", "echo 1"])
def test_a_driver_that_is_not_there_or_says_nothing_useful_costs_no_scrape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    assert scraped(tmp_path, monkeypatch, script) == []
