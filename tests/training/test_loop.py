"""The loop: schedules to formulas, who decays, averages, and the same curve wherever a run was interrupted."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.catalog import DETECTORS
from models.detectors.detector import Losses
from service.errors import InvalidOptions
from tests.support.networks import SMALL_DETECTORS
from training import checkpoints, descent, loop
from training.loop import LoopConfig, Step, fit


class Count(nn.Module):
    """A loss with a memory, as a running normaliser is one, and with something of its own to learn."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(1.0, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(0.5))

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        self.seen.mul_(0.9).add_(0.1 * float(wanted.abs().mean()))
        return (found - wanted - self.offset).pow(2).mean() / self.seen.float()


class LineJob:
    """A line through noisy points, with drop-out: batches from the step, noise of drop-out from the loop."""

    steps_per_epoch = 5

    def __init__(self, spoil_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.loss = Count()
        self.spoil_at = spoil_at

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        points = np.random.default_rng(step).standard_normal((6, 3)).astype(np.float32)
        if step == self.spoil_at:
            points[0, 0] = np.nan
        return torch.from_numpy(points), torch.from_numpy(points.sum(axis=1, keepdims=True))

    def losses(self, network: nn.Module, batch: Any) -> Losses:
        loss = self.loss(network(batch[0]), batch[1])
        return Losses(loss, {"squares": loss})

    def validate(self, network: nn.Module) -> dict[str, float]:
        points, wanted = self.batch(1000)
        with torch.inference_mode():
            return {"average": 1 / (1 + float((network(points) - wanted).pow(2).mean()))}


CONFIG = LoopConfig(epochs=3, warmup_epochs=1, learning_rate=0.05, ema=0.8, checkpoint_every_steps=3, keep=2)


def curve(folder: Path, name: str = "curve.csv") -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def untimed(facts: dict[str, Any]) -> dict[str, Any]:
    """Without how long it took, which differs from run to run."""
    return {key: value for key, value in facts.items() if key != "seconds"}


class StoppedError(Exception):
    """What a test stops a run with."""


def interrupt_at(step: int):
    def follow(taken: Step) -> None:
        if taken.step == step:
            raise StoppedError

    return follow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(LineJob(), CONFIG, folder)
    return folder


@pytest.mark.parametrize("step", [0, 2, 3, 4, 9, 11, 19])
def test_a_run_interrupted_at_any_step_ends_as_if_it_had_not_been(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(StoppedError):
        fit(LineJob(), CONFIG, tmp_path, on_step=interrupt_at(step))
    result = fit(LineJob(), CONFIG, tmp_path)
    assert result.first_step == step // 3 * 3
    assert curve(tmp_path) == curve(whole)
    assert curve(tmp_path, "validation.csv") == curve(whole, "validation.csv")
    for name in (loop.WEIGHTS, loop.BEST, loop.LAST):
        expected, found = checkpoints.read(whole / name), checkpoints.read(tmp_path / name)
        assert untimed(found[1]) == untimed(expected[1])
        assert found[0].keys() == expected[0].keys()
        assert all(torch.equal(value, found[0][key]) for key, value in expected[0].items())


def test_a_run_interrupted_twice_goes_on_twice(whole: Path, tmp_path: Path) -> None:
    for step in (7, 13):
        with pytest.raises(StoppedError):
            fit(LineJob(), CONFIG, tmp_path, on_step=interrupt_at(step))
    fit(LineJob(), CONFIG, tmp_path)
    assert curve(tmp_path) == curve(whole)


def test_a_finished_run_takes_no_further_step(whole: Path) -> None:
    before = checkpoints.read(whole / loop.WEIGHTS)[0]
    result = fit(LineJob(), CONFIG, whole, on_step=interrupt_at(19))
    assert (result.first_step, result.steps) == (20, 20)
    after = checkpoints.read(whole / loop.WEIGHTS)[0]
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_seconds_of_interrupted_runs_are_added_up_and_a_finished_run_tells_the_same_again(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fit(LineJob(), CONFIG, tmp_path, on_step=interrupt_at(9))
    tensors, facts = checkpoints.read(tmp_path / loop.LAST)
    assert facts["seconds"] > 0
    checkpoints.write(tmp_path / loop.LAST, tensors, {**facts, "seconds": 1000.0})
    result = fit(LineJob(), CONFIG, tmp_path)
    assert 1000 < result.seconds < 1100
    assert fit(LineJob(), CONFIG, tmp_path).seconds == result.seconds


def test_a_checkpoint_of_a_release_that_kept_no_time_goes_on(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fit(LineJob(), CONFIG, tmp_path, on_step=interrupt_at(9))
    tensors, facts = checkpoints.read(tmp_path / loop.LAST)
    checkpoints.write(tmp_path / loop.LAST, tensors, untimed(facts))
    assert 0 < fit(LineJob(), CONFIG, tmp_path).seconds < 100


def test_a_checkpoint_of_another_network_is_told_as_bad_input(tmp_path: Path) -> None:
    fit(LineJob(), CONFIG, tmp_path)
    wider = LineJob()
    wider.network = nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.3), nn.BatchNorm1d(9), nn.Linear(9, 1))
    with pytest.raises(InvalidOptions, match=r"last\.safetensors: does not fit what is trained here: .*size mismatch"):
        fit(wider, CONFIG, tmp_path)


def test_a_checkpoint_without_its_facts_is_told_as_bad_input(tmp_path: Path) -> None:
    fit(LineJob(), CONFIG, tmp_path)
    tensors, facts = checkpoints.read(tmp_path / loop.LAST)
    checkpoints.write(tmp_path / loop.LAST, tensors, {"settings": facts["settings"]})
    with pytest.raises(InvalidOptions, match=r"does not fit what is trained here: .*scaler"):
        fit(LineJob(), CONFIG, tmp_path)


def test_a_run_goes_on_only_with_its_own_settings(whole: Path) -> None:
    other = CONFIG.model_copy(update={"learning_rate": 0.1})
    with pytest.raises(InvalidOptions, match=r"learning_rate was 0\.05, is 0\.1; start afresh"):
        fit(LineJob(), other, whole)


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / loop.LAST).write_bytes(b"noise")
    with pytest.raises(InvalidOptions, match="no checkpoint of ours"):
        fit(LineJob(), CONFIG, tmp_path)


def test_a_checkpoint_cut_short_by_a_crash_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "last.safetensors", {"a": torch.ones(2)}, {"step": 1})
    (tmp_path / ".last.safetensors.partial").write_bytes(b"half")
    tensors, facts = checkpoints.read(tmp_path / "last.safetensors")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert facts == {"step": 1}


def test_so_many_earlier_checkpoints_are_kept_as_asked(whole: Path) -> None:
    assert sorted(path.name for path in whole.glob("step-*")) == [
        "step-000000018.safetensors",
        "step-000000020.safetensors",
    ]


def test_every_step_stands_in_the_curve_with_its_parts(whole: Path) -> None:
    rows = curve(whole)
    assert [int(row["step"]) for row in rows] == list(range(20))
    assert [int(row["epoch"]) for row in rows] == [step // 5 for step in range(20)]
    assert list(rows[0]) == ["step", "epoch", "learning_rate", "total", "squares", "grad_norm"]
    assert float(rows[-1]["total"]) < float(rows[0]["total"])
    assert len(list((whole / "tensorboard").iterdir())) > 0


def test_the_best_weights_are_those_of_the_best_validation(whole: Path) -> None:
    reached = [float(row["average"]) for row in curve(whole, "validation.csv")]
    _, facts = checkpoints.read(whole / loop.BEST)
    assert facts["average"] == max(reached)
    assert facts["step"] == 5 * (1 + reached.index(max(reached)))


def test_a_loss_that_is_no_number_stops_with_step_and_parts(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match=r"step 7: the loss is not a finite number: total nan, squares nan"):
        fit(LineJob(spoil_at=7), CONFIG, tmp_path)
    assert len(curve(tmp_path)) == 7


def test_the_learning_rate_warms_up_then_follows_a_cosine() -> None:
    config = LoopConfig(epochs=4, warmup_epochs=2, learning_rate=0.1, final_learning_rate=0.001)
    rates = [loop.learning_rate(config, step, 10) for step in range(60)]
    np.testing.assert_allclose(rates[:20], 0.1 * np.arange(1, 21) / 20)
    expected = 0.001 + 0.099 * (1 + np.cos(np.pi * np.arange(40) / 40)) / 2
    np.testing.assert_allclose(rates[20:], expected)


def test_the_learning_rate_falls_at_milestones_counted_after_warm_up() -> None:
    config = LoopConfig(epochs=6, warmup_epochs=1, learning_rate=1.0, schedule="steps", milestones=(2, 4), gamma=0.5)
    rates = [loop.learning_rate(config, step, 3) for step in range(21)]
    np.testing.assert_allclose(rates, [1 / 3, 2 / 3, 1] + 6 * [1.0] + 6 * [0.5] + 6 * [0.25])


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "steps"},
        {"milestones": (2,)},
        {"final_learning_rate": 1.0},
        {"ema": 1.0},
        {"epochs": 0},
        {"learning_rate": math.inf},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoopConfig(**{"epochs": 1, "learning_rate": 0.1, **changes})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lower_precision_is_refused_where_there_is_none(tmp_path: Path, precision: str) -> None:
    with pytest.raises(
        InvalidOptions, match=f"mixed_precision is '{precision}', which CUDA alone has; this runs on cpu"
    ):
        fit(LineJob(), CONFIG.model_copy(update={"mixed_precision": precision}), tmp_path)


@pytest.mark.parametrize(("system", "variant"), [(s, v) for s, known in SMALL_DETECTORS.items() for v in known])
def test_only_kernels_decay(system: str, variant: str) -> None:
    network = DETECTORS[system].network(SMALL_DETECTORS[system][variant])
    decaying, others = descent.parameter_groups(network, 0.05)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    decays = {id(weight) for weight in decaying["params"]}
    told = {name for name, weight in network.named_parameters() if id(weight) in decays}
    expected = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    }
    assert told == expected
    assert len(decaying["params"]) + len(others["params"]) == len(list(network.parameters()))


def test_what_a_loss_learns_is_trained_and_stays_out_of_the_weights(tmp_path: Path) -> None:
    job = LineJob()
    fit(job, CONFIG, tmp_path)
    assert job.loss.offset.item() != 0.5
    tensors, _ = checkpoints.read(tmp_path / loop.LAST)
    assert tensors["loss/offset"] == job.loss.offset
    assert set(checkpoints.only("optimiser-of-loss/offset", tensors)) == {"step", "exp_avg", "exp_avg_sq"}
    weights, _ = checkpoints.read(tmp_path / loop.WEIGHTS)
    assert set(weights) == set(job.network.state_dict())


def test_attention_of_torch_decays_its_one_matrix() -> None:
    network = nn.MultiheadAttention(4, 2)
    decaying, others = descent.parameter_groups(network, 0.1)
    assert {weight.dim() for weight in decaying["params"]} == {2}
    assert {weight.dim() for weight in others["params"]} == {1}


def test_the_average_keeps_its_share_of_the_past() -> None:
    network, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.running_mean.fill_(10.0)  # type: ignore[union-attr, operator]
        network.num_batches_tracked.fill_(7)  # type: ignore[union-attr, operator]
    for _ in range(3):
        descent.move_average(average, network, 0.9)
    torch.testing.assert_close(average.weight, torch.full((2,), 2 - 0.9**3))
    torch.testing.assert_close(average.running_mean, torch.full((2,), 10 * (1 - 0.9**3)))
    assert average.num_batches_tracked == 7


def test_without_an_average_the_weights_themselves_are_kept(tmp_path: Path) -> None:
    job = LineJob()
    fit(job, CONFIG.model_copy(update={"ema": None}), tmp_path)
    found, _ = checkpoints.read(tmp_path / loop.WEIGHTS)
    assert all(torch.equal(value, found[name]) for name, value in job.network.state_dict().items())


def test_gradients_are_clipped_to_the_norm_that_was_asked_for(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(LineJob):
        def batch(self, step: int) -> tuple[Tensor, Tensor]:
            points, wanted = super().batch(step)
            return points, 1000 * wanted

    def follow(taken: Step) -> None:
        norm = torch.linalg.vector_norm(
            torch.stack([w.grad.norm() for w in job.network.parameters() if w.grad is not None])
        )
        seen.append(float(norm))
        assert taken.grad_norm > 0.5

    job = Watched()
    fit(job, CONFIG.model_copy(update={"clip_norm": 0.5}), tmp_path, on_step=follow)
    assert max(seen) == pytest.approx(0.5, rel=1e-3)


def test_slow_parameters_learn_at_their_share_of_the_rate() -> None:
    network = nn.ModuleDict({"reference_points": nn.Linear(2, 1), "other": nn.Linear(2, 1)})
    config = LoopConfig(epochs=1, learning_rate=0.1, slow_parameters=("reference_points",), slow_factor=0.2)
    groups = descent.slowed(
        descent.parameter_groups(network, 0.05), network, config.slow_parameters, config.slow_factor
    )
    found = {
        name: (group["slowed_to"], group["weight_decay"])
        for name, weight in network.named_parameters()
        for group in groups
        if any(weight is member for member in group["params"])
    }
    assert found == {
        "reference_points.weight": (0.2, 0.05),
        "reference_points.bias": (0.2, 0.0),
        "other.weight": (1.0, 0.05),
        "other.bias": (1.0, 0.0),
    }
    with pytest.raises(InvalidOptions, match="no parameter's name holds 'zzz'"):
        descent.slowed(groups, network, ("other", "zzz"), 0.2)
    before, fast, slow = (weights_after(slow_parameters) for slow_parameters in (None, (), ("weight", "bias")))
    for name, value in before.items():
        torch.testing.assert_close(slow[name] - value, 0.1 * (fast[name] - value), rtol=1e-3, atol=2e-7)


def weights_after(slow_parameters: tuple[str, ...] | None) -> dict[str, Tensor]:
    """After one step, or at the start; AdamW's first step without decay is the rate, up to its sign."""
    job = LineJob()
    if slow_parameters is not None:
        config = LoopConfig(epochs=1, learning_rate=1e-3, ema=None, weight_decay=0, slow_parameters=slow_parameters)
        state = loop._start(job, config, torch.device("cpu"))
        loop._take_step(state, job, config, job.batch(0), job.steps_per_epoch)
    return {name: weight.detach().clone() for name, weight in job.network.named_parameters()}
