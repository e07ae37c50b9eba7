"""A detector in; how many multiply-adds one window costs it, out: counted while it runs, on tensors without memory.

    python -m benchmarks.multiply_adds rcl activitynet --option inference_iterations=5

Matrix products and convolutions count, as is usual; what acts element by element does not.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.catalog import DETECTORS
from models.detectors.detector import Detector


def multiply_adds(network: Detector, steps: int | None = None) -> int:
    """Of one window of `steps`, by default the only length that the network takes, decoded."""
    length = steps or network.config.lengths.fixed
    if length is None:
        raise ValueError("the network takes windows of any length; say how many steps")
    device = next(network.parameters()).device
    features = torch.zeros(1, sum(network.config.input_channels), length, device=device)
    mask = torch.ones(1, length, dtype=torch.bool, device=device)
    was_training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval().decode(network(features, mask))
    network.train(was_training)
    return int(counter.get_total_flops()) // 2


def made(name: str, preset: str, options: dict[str, Any]) -> Detector:
    entry = DETECTORS[name]
    with torch.device("meta"):
        network = entry.network(replace(entry.presets[preset](), **options))
    return network.to("meta")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(DETECTORS))
    parser.add_argument("preset")
    parser.add_argument("--option", action="append", default=[], help="name=JSON value, of the configuration")
    parser.add_argument("--steps", type=int)
    chosen = parser.parse_args()
    options = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in chosen.option)}
    count = multiply_adds(made(chosen.network, chosen.preset, options), chosen.steps)
    print(f"{count / 1e9:.3f} G multiply-adds per window")


if __name__ == "__main__":
    main()
