"""A map's logits in, better ones out, step by step: the recurrent update of RAFT (Teed and Deng, ECCV 2020)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

ANSWERS = 2  # numbers per cell


class ConvGru(nn.Module):
    """A gated memory (B, H, D, T), convolved with its input (B, C, D, T)."""

    def __init__(self, memory: int, inputs: int) -> None:
        super().__init__()
        self.update, self.reset, self.propose = (nn.Conv2d(memory + inputs, memory, 3, padding=1) for _ in range(3))

    def forward(self, memory: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([memory, x], dim=1)
        update, reset = self.update(both).sigmoid(), self.reset(both).sigmoid()
        proposed = self.propose(torch.cat([reset * memory, x], dim=1)).tanh()
        return cast("Tensor", (1 - update) * memory + update * proposed)


class MotionEncoder(nn.Module):
    """What is known of cells (B, C, D, T) and their logits, told in `answer_channels` and the logits themselves."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.cells = nn.Conv2d(inputs, 96, 1)
        self.wide, self.narrow = nn.Conv2d(ANSWERS, 64, 7, padding=3), nn.Conv2d(64, 32, 3, padding=1)
        self.joined = nn.Conv2d(96 + 32, 80, 3, padding=1)
        self.answer_channels = 80 + ANSWERS

    def forward(self, cells: Tensor, logits: Tensor) -> Tensor:
        known = F.relu(self.narrow(F.relu(self.wide(logits))))
        joined = F.relu(self.joined(torch.cat([F.relu(self.cells(cells)), known], dim=1)))
        return torch.cat([joined, logits], dim=1)


class LeanUpdate(nn.Module):
    """The memory reads the logits and the context; one convolution of it corrects the logits."""

    def __init__(self, memory: int, context: int, inputs: int) -> None:
        super().__init__()
        del inputs
        self.gru, self.answer = ConvGru(memory, context + ANSWERS), nn.Conv2d(memory, ANSWERS, 3, padding=1)

    def forward(self, memory: Tensor, context: Tensor, cells: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The next memory, and what to add to the logits."""
        del cells
        memory = self.gru(memory, torch.cat([context, logits], dim=1))
        return memory, self.answer(memory)


class FullUpdate(nn.Module):
    """RAFT's small update block."""

    def __init__(self, memory: int, context: int, inputs: int, width: int = 128) -> None:
        super().__init__()
        self.encoder = MotionEncoder(inputs)
        self.gru = ConvGru(memory, context + self.encoder.answer_channels)
        self.head = nn.Sequential(
            nn.Conv2d(memory, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, ANSWERS, 3, padding=1)
        )

    def forward(self, memory: Tensor, context: Tensor, cells: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.gru(memory, torch.cat([context, self.encoder(cells, logits)], dim=1))
        return memory, cast("Tensor", self.head(memory))


UPDATES: dict[str, type[LeanUpdate] | type[FullUpdate]] = {"lean": LeanUpdate, "full": FullUpdate}


class Refinement(nn.Module):
    """Features of cells (B, C, D, T) and first logits (B, 2, D, T) in; these and the logits after every step out."""

    def __init__(self, inputs: int, memory: int, context: int, update: str) -> None:
        super().__init__()
        self.sizes = [memory, context]
        self.begin = nn.Conv2d(inputs, memory + context, 1)
        self.update = UPDATES[update](memory, context, inputs)

    def forward(self, cells: Tensor, logits: Tensor, steps: int) -> list[Tensor]:
        memory, context = torch.split(self.begin(cells), self.sizes, dim=1)
        return self.corrected(memory.tanh(), F.relu(context), cells, logits, steps)

    def corrected(self, memory: Tensor, context: Tensor, cells: Tensor, logits: Tensor, steps: int) -> list[Tensor]:
        """The same from a memory on. Each step is taught for itself: no gradient flows back through the logits."""
        found = [logits]
        for _ in range(steps):
            before = found[-1].detach()
            memory, change = self.update(memory, context, cells, before)
            found.append(before + change)
        return found
