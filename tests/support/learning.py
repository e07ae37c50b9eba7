"""A detector and its loss in; what it finds, after training on it, in one window that shows an action of each of two
classes, out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.detectors.detector import Detector, Losses, Targets

LENGTH = 32
FEATURES = torch.zeros(1, 2, LENGTH)
FEATURES[0, 0, 4:9], FEATURES[0, 1, 18:25] = 1, 1
MASK = torch.ones(1, LENGTH, dtype=torch.bool)
# Where the features say so: from the first such step to one behind the last, or half a step around them.
FROM_STEP_TO_STEP = Targets(torch.tensor([[4.0, 9.0], [18.0, 25.0]]), torch.tensor([0, 1]))
AROUND_STEPS = FROM_STEP_TO_STEP._replace(spans=FROM_STEP_TO_STEP.spans - 0.5)


def learn(
    network: Detector,
    loss: nn.Module,
    wanted: Targets = FROM_STEP_TO_STEP,
    *,
    steps: int = 150,
    rate: float = 5e-3,
    clip_norm: float = math.inf,
) -> tuple[Losses, Losses]:
    """Losses of the first and of the last step; the network is left in evaluation mode."""
    parameters = [*network.parameters(), *loss.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0)
    told = []
    for _ in range(steps):
        optimiser.zero_grad()
        told.append(loss(network.train()(FEATURES, MASK), [wanted]))
        told[-1].total.backward()
        nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimiser.step()
    network.eval()
    return told[0], told[-1]


def assert_finds(network: Detector, wanted: Targets = FROM_STEP_TO_STEP, *, score: float, within_steps: float) -> None:
    """The best candidate of each class scores that much, for no other class more, and lies where its action does."""
    with torch.inference_mode():
        found = network.decode(network(FEATURES, MASK))
    for span, label in zip(wanted.spans, wanted.labels, strict=True):
        best: Tensor = found.scores[0, :, label].argmax()
        assert found.scores[0, best].argmax() == label
        assert found.scores[0, best, label] > score
        torch.testing.assert_close(found.spans[0, best], span, atol=within_steps, rtol=0)
