"""A job in; trained weights, their curve and their checkpoints in a folder out. The one loop that trains everything.

Stopped at any moment, even by kill -9, and started again, it goes on from its last checkpoint and ends with the same
numbers as if it had never stopped: batches and random numbers are functions of seed and step alone.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.detectors.detector import Losses
from models.schema import Count, NonNegative, Part, Positive
from service.errors import InvalidOptions
from training import checkpoints
from training.curves import Curves
from training.descent import move_average, parameter_groups, slowed

Precision = Literal["float32", "bf16", "fp16"]
Share = Annotated[float, Field(ge=0, lt=1)]

DECIDES = "average"  # of what validation tells, the number that makes weights the best so far
MISFIT_LINES = 4  # of what torch says; more are alike
LAST, BEST, WEIGHTS = "last.safetensors", "best.safetensors", "weights.safetensors"


class LoopConfig(Part):
    """How to descend. Warm-up comes before `epochs`, and milestones count epochs after it, as in published settings.

    `optimiser` None is AdamW, whose decay is apart from the gradient and for kernels alone; "adam" adds the decay of
    every weight to its gradient.
    `ema`: how much of the averaged weights each step keeps; None trains without. `clip_norm` None never clips.
    Parameters whose name holds one of `slow_parameters` learn at `slow_factor` of the rate.
    `keep`: so many earlier checkpoints stay beside the last. `validate_every_epochs` 0 never validates.
    """

    epochs: Count
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    learning_rate: Positive
    final_learning_rate: NonNegative = 1e-8
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[Count, ...] = ()
    gamma: Positive = 0.1
    weight_decay: NonNegative = 0.05
    optimiser: Literal["adam"] | None = None
    slow_parameters: tuple[str, ...] = ()
    slow_factor: Positive = 0.1
    betas: tuple[Share, Share] = (0.9, 0.999)
    ema: Share | None = 0.999
    clip_norm: Positive | None = 1.0
    mixed_precision: Precision = "float32"
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    checkpoint_every_steps: Count = 500
    validate_every_epochs: Annotated[int, Field(ge=0)] = 1
    keep: Annotated[int, Field(ge=0, le=1000)] = 0

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> LoopConfig:
        if (self.schedule == "steps") != bool(self.milestones):
            raise ValueError(
                f"schedule {self.schedule!r} with milestones {list(self.milestones)}: only 'steps' has some"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} exceeds learning_rate {self.learning_rate}"
            )
        return self

    @property
    def all_epochs(self) -> int:
        return self.warmup_epochs + self.epochs


class TrainingJob(Protocol):
    """What is trained, and on what. `batch` depends on nothing but the job's own seed and the step."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def loss(self) -> nn.Module:
        """Its buffers are state, and what it learns itself is trained with the network: checkpoints keep both, weights
        that leave the run hold neither."""
        ...

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int) -> Any: ...

    def losses(self, network: nn.Module, batch: Any) -> Losses: ...

    def validate(self, network: nn.Module) -> Mapping[str, float]:
        """Figures of the averaged weights, `average` among them; none where there is nothing to validate on."""
        ...


@dataclass(frozen=True)
class Step:
    """One step that was taken: `step` counts from 0, `total` is how many there are."""

    step: int
    total: int
    epoch: int
    learning_rate: float
    losses: Mapping[str, float]
    grad_norm: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """`validation` is of the last epoch that was validated, `best` the greatest `average` of all; `seconds` to the
    last checkpoint, with what interrupted runs took to theirs."""

    steps: int
    first_step: int
    seconds: float
    validation: Mapping[str, float]
    best: float | None
    weights: Path


@dataclass
class _State:
    """All that a checkpoint holds. `began`: when the run would have begun, had it never stopped."""

    network: nn.Module
    average: nn.Module
    loss: nn.Module
    optimiser: torch.optim.Adam
    scaler: torch.amp.GradScaler
    step: int = 0
    best: float | None = None
    validation: Mapping[str, float] | None = None
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def learning(self) -> dict[str, nn.Parameter]:
        """All that is descended on, by the name of its moments in a checkpoint."""
        return {
            **{f"optimiser/{name}": weight for name, weight in self.network.named_parameters()},
            **{f"optimiser-of-loss/{name}": weight for name, weight in self.loss.named_parameters()},
        }


def fit(
    job: TrainingJob,
    config: LoopConfig,
    folder: Path,
    device: torch.device | str = "cpu",
    on_step: Callable[[Step], None] = lambda _: None,
    on_validation: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
) -> Result:
    """Trains the job's network in place, from the folder's last checkpoint if it holds one of the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    state = _start(job, config, torch.device(device))
    _resume(state, config, job, folder / LAST)
    first, per_epoch, total = state.step, job.steps_per_epoch, config.all_epochs * job.steps_per_epoch
    with Curves(folder, first) as curves, ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(job.batch, first)
        for step in range(first, total):
            batch = coming.result()
            if step + 1 < total:
                coming = ahead.submit(job.batch, step + 1)
            taken = _take_step(state, job, config, batch, total)
            curves.add_step(taken)
            on_step(taken)
            state.step = step + 1
            if _validation_due(state.step, per_epoch, config):
                _validate(state, job, config, folder)
                figures = state.validation or {}
                curves.add_validation(state.step, taken.epoch, figures)
                on_validation(taken.epoch, figures)
            if state.step % config.checkpoint_every_steps == 0 or state.step == total:
                curves.to_disk()
                _save(state, config, job, folder)
    checkpoints.write(folder / WEIGHTS, state.average.state_dict(), {"step": state.step, "seed": config.seed})
    return Result(state.step, first, state.seconds, state.validation or {}, state.best, folder / WEIGHTS)


def learning_rate(config: LoopConfig, step: int, steps_per_epoch: int) -> float:
    """Of step 0, 1, …: rising to the full rate at the last step of warm-up, falling to the final one beyond."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = step - warmup
    if config.schedule == "steps":
        passed = sum(done >= milestone * steps_per_epoch for milestone in config.milestones)
        return float(config.learning_rate * config.gamma**passed)
    share = done / (config.epochs * steps_per_epoch)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * (1 + math.cos(math.pi * share)) / 2


def _start(job: TrainingJob, config: LoopConfig, device: torch.device) -> _State:
    network, loss = job.network.to(device).train(), job.loss.to(device)
    if config.mixed_precision != "float32" and device.type != "cuda":
        raise InvalidOptions(
            f"mixed_precision is {config.mixed_precision!r}, which CUDA alone has; this runs on {device.type}, where "
            "'float32' is accepted"
        )
    average = network
    if config.ema is not None:
        average = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    both = nn.ModuleList([network, loss])
    groups = parameter_groups(both, config.weight_decay, all_alike=config.optimiser == "adam")
    if config.slow_parameters:
        groups = slowed(groups, network, config.slow_parameters, config.slow_factor)
    kind = torch.optim.Adam if config.optimiser == "adam" else torch.optim.AdamW
    optimiser = kind(groups, lr=config.learning_rate, betas=config.betas)
    scaled = config.mixed_precision == "fp16"
    return _State(network, average, loss, optimiser, torch.amp.GradScaler(device.type, enabled=scaled))


def _take_step(state: _State, job: TrainingJob, config: LoopConfig, batch: Any, total: int) -> Step:
    began, step = time.monotonic(), state.step
    rate = learning_rate(config, step, job.steps_per_epoch)
    for group in state.optimiser.param_groups:
        group["lr"] = rate * group.get("slowed_to", 1.0)
    # Drop-out of a step must not depend on how many steps this process has taken before.
    torch.manual_seed((config.seed * 1_000_003 + step) % (1 << 63))
    state.network.train()
    with _autocast(config, next(state.network.parameters()).device):
        losses = job.losses(state.network, batch)
    parts = _finite_parts(losses, step)
    state.optimiser.zero_grad(set_to_none=True)
    state.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimiser)
    norm = float(nn.utils.clip_grad_norm_(state.learning.values(), config.clip_norm or math.inf))
    if not math.isfinite(norm) and not state.scaler.is_enabled():
        raise InvalidOptions(f"step {step}: the gradient is {norm}, losses are {_told(parts)}; training cannot go on")
    state.scaler.step(state.optimiser)
    state.scaler.update()
    if config.ema is not None:
        move_average(state.average, state.network, config.ema)
    return Step(step, total, step // job.steps_per_epoch, rate, parts, norm, time.monotonic() - began)


def _autocast(config: LoopConfig, device: torch.device) -> torch.autocast:
    lower = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, lower, enabled=config.mixed_precision != "float32")


def _finite_parts(losses: Losses, step: int) -> dict[str, float]:
    parts = {"total": losses.total.item(), **{name: part.item() for name, part in losses.parts.items()}}
    if not all(math.isfinite(part) for part in parts.values()):
        raise InvalidOptions(
            f"step {step}: the loss is not a finite number: {_told(parts)}; features without NaN and a lower "
            "learning_rate are what helps"
        )
    return parts


def _told(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {part:g}" for name, part in parts.items())


def _validation_due(steps_done: int, per_epoch: int, config: LoopConfig) -> bool:
    if steps_done % per_epoch or not config.validate_every_epochs:
        return False
    epochs_done = steps_done // per_epoch
    return epochs_done % config.validate_every_epochs == 0 or epochs_done == config.all_epochs


def _validate(state: _State, job: TrainingJob, config: LoopConfig, folder: Path) -> None:
    state.average.eval()
    state.validation = dict(job.validate(state.average))
    reached = state.validation.get(DECIDES)
    if reached is not None and (state.best is None or reached > state.best):
        state.best = reached
        facts = {"step": state.step, "seed": config.seed, DECIDES: reached}
        checkpoints.write(folder / BEST, state.average.state_dict(), facts)


def _save(state: _State, config: LoopConfig, job: TrainingJob, folder: Path) -> None:
    state.seconds = time.monotonic() - state.began
    tensors = checkpoints.under("network", state.network.state_dict())
    if config.ema is not None:
        tensors |= checkpoints.under("average", state.average.state_dict())
    tensors |= checkpoints.under("loss", state.loss.state_dict())
    for name, weight in state.learning.items():
        moments: Mapping[str, Tensor] = state.optimiser.state.get(weight, {})
        tensors |= checkpoints.under(name, moments)
    facts = {
        "step": state.step,
        "best": state.best,
        "validation": state.validation,
        "seconds": state.seconds,
        "scaler": state.scaler.state_dict(),
        "settings": _settings(config, job),
    }
    checkpoints.write(folder / LAST, tensors, facts)
    if config.keep:
        _keep_earlier(folder, state.step, config.keep)


def _keep_earlier(folder: Path, step: int, keep: int) -> None:
    kept = folder / f"step-{step:09d}.safetensors"
    kept.unlink(missing_ok=True)
    kept.hardlink_to(folder / LAST)
    for older in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        older.unlink()


def _resume(state: _State, config: LoopConfig, job: TrainingJob, path: Path) -> None:
    if not path.exists():
        return
    tensors, facts = checkpoints.read(path)
    _check_same_settings(facts.get("settings", {}), _settings(config, job), path)
    with _fitting(path):
        _take_up(state, config, tensors, facts)


def _take_up(state: _State, config: LoopConfig, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    state.network.load_state_dict(checkpoints.only("network", tensors))
    if config.ema is not None:
        state.average.load_state_dict(checkpoints.only("average", tensors))
    state.loss.load_state_dict(checkpoints.only("loss", tensors))
    device = next(state.network.parameters()).device
    for name, weight in state.learning.items():
        moments = checkpoints.only(name, tensors)
        if moments:
            # Both optimisers count their steps on the host.
            state.optimiser.state[weight] = {
                key: value if key == "step" else value.to(device) for key, value in moments.items()
            }
    state.scaler.load_state_dict(facts["scaler"])
    state.step, state.best, state.validation = facts["step"], facts["best"], facts["validation"]
    state.seconds = facts.get("seconds", 0.0)
    state.began -= state.seconds


@contextlib.contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """What torch says of weights that are not this network's, as a refusal."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        told = "; ".join(line.strip().rstrip(".") for line in f"{error}".splitlines()[:MISFIT_LINES])
        raise InvalidOptions(
            f"{path}: does not fit what is trained here: {told}; start afresh, or in another folder"
        ) from None


def _settings(config: LoopConfig, job: TrainingJob) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    settings = config.model_dump(mode="json", exclude={"checkpoint_every_steps", "keep"})
    return {**settings, "steps_per_epoch": job.steps_per_epoch}


def _check_same_settings(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    apart = [f"{key} was {found.get(key)!r}, is {value!r}" for key, value in wanted.items() if found.get(key) != value]
    if apart:
        raise InvalidOptions(
            f"{path}: was made with other settings: {'; '.join(apart)}; start afresh, or in another folder"
        )
