"""Numbers that public implementations gave with random weights, as they lie in tests/golden."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class GoldenSet:
    config: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    state: dict[str, torch.Tensor]


def read(name: str) -> GoldenSet:
    folder = ROOT / name
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for part in ("inputs", "outputs", "state"):
        path = folder / f"{part}.npz"
        if not path.exists():
            arrays[part] = {}
            continue
        with np.load(path, allow_pickle=False) as stored:
            arrays[part] = dict(stored)
    state = {key: torch.from_numpy(value) for key, value in arrays["state"].items()}
    return GoldenSet(json.loads((folder / "config.json").read_text()), arrays["inputs"], arrays["outputs"], state)
