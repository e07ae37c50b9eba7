"""Costs in, the cheapest one-to-one assignment out: which query answers for which action; for losses only."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@torch.no_grad()
def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Cost (Q, G) → rows and columns (min(Q, G),) int64 of the pairs whose costs add up to the least (Kuhn 1955)."""
    rows, columns = linear_sum_assignment(cost.detach().cpu().double().numpy())
    return torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device)
