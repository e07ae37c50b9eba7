"""The weights of a network in; which of them decay or learn slowly, and their moving average, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from service.errors import InvalidOptions

DECAYING = (nn.modules.conv._ConvNd, nn.Linear)  # noqa: SLF001  (torch's own parent of all convolutions)


def parameter_groups(network: nn.Module, weight_decay: float, *, all_alike: bool = False) -> list[dict[str, Any]]:
    """Only kernels of convolutions and linear layers decay; biases, norms, scales and encodings do not, unless
    `all_alike`."""
    if all_alike:
        return [{"params": [one for one in network.parameters() if one.requires_grad], "weight_decay": weight_decay}]
    decaying = {
        id(weight)
        for module in network.modules()
        for name, weight in module.named_parameters(recurse=False)
        if (isinstance(module, DECAYING) and name == "weight") or name == "in_proj_weight"
    }
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if id(weight) in decaying], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if id(weight) not in decaying], "weight_decay": 0.0},
    ]


def slowed(
    groups: list[dict[str, Any]], network: nn.Module, words: Sequence[str], share: float
) -> list[dict[str, Any]]:
    """The same groups, and behind each a group of its parameters whose names hold one of these words; `slowed_to` is
    the share of the rate that a group learns at."""
    names = {id(weight): name for name, weight in network.named_parameters()}
    unused = [word for word in words if not any(word in name for name in names.values())]
    if unused:
        raise InvalidOptions(f"slow_parameters: no parameter's name holds {', '.join(map(repr, unused))}")

    def is_slow(weight: nn.Parameter) -> bool:
        return any(part in names.get(id(weight), "") for part in words)

    return [
        {**group, "params": [weight for weight in group["params"] if is_slow(weight) == slow], "slowed_to": factor}
        for group in groups
        for slow, factor in ((False, 1.0), (True, share))
    ]


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, keep: float) -> None:
    """average = keep · average + (1 − keep) · network; what is no real number, such as a counter, is copied."""
    for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.mul_(keep).add_(new, alpha=1 - keep)
        else:
            old.copy_(new)
