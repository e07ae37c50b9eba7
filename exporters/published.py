"""Weights that somebody published, and their configuration, in; one of our networks with these weights out.

The one door for official weights: `read` takes them from a file without running code of it, `load` puts them in place.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.layouts import actionformer, afsd, bmn, cmcs, gtad, i3d, react, tadtr, tsn
from exporters.layouts.layout import Layout, State
from service.errors import InvalidOptions, TalError, WeightsMismatch, first_line

LAYOUTS: Mapping[str, Mapping[str, Layout]] = {
    "actionformer": actionformer.LAYOUTS,
    "afsd": afsd.LAYOUTS,
    "bmn": bmn.LAYOUTS,
    "cmcs": cmcs.LAYOUTS,
    "gtad": gtad.LAYOUTS,
    "i3d": i3d.LAYOUTS,
    "react": react.LAYOUTS,
    "tadtr": tadtr.LAYOUTS,
    "tsn": tsn.LAYOUTS,
}
# Where checkpoints keep their weights; averaged weights come first, since published results were reached with them.
NESTED_UNDER = ("state_dict_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
CHECKPOINT_PARTS = ("average/", "network/")  # of our own checkpoints; averaged weights come first, as above
WRAPPERS = ("module.",)  # what data-parallel training puts before every name
COUNTER = "num_batches_tracked"  # of batch norms: used in training only, and absent from older checkpoints
MISFITS_SHOWN = 5


def read(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file (.pth, .pt, .npz, .safetensors), by their own names."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if path.suffix == ".safetensors":
            content: Any = _trained_here(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles by other versions; what does not load is an error anyway
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidOptions(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001  (a damaged archive or pickle fails in any way it likes)
        raise InvalidOptions(
            f"{path}: no weights that load without running code ({type(error).__name__}: {first_line(error)})"
        ) from None
    return _weights_in(content, str(path))


def _trained_here(path: Path) -> dict[str, Tensor]:
    """What training wrote: final or best weights, or the averaged ones of a checkpoint, which holds much else."""
    from safetensors.torch import load_file  # noqa: PLC0415  (only who trains has it)

    tensors = load_file(path)
    for kind in CHECKPOINT_PARTS:
        if any(name.startswith(kind) for name in tensors):
            return {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}
    return tensors


def load(system: str, layout: str, state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> nn.Module:
    """A network in evaluation mode. Every weight must find its place; a misfit is told by its published name."""
    form = find_layout(system, layout)
    state = {str(name): torch.as_tensor(value) for name, value in state_dict.items()}
    with told(f"{system} ({layout})"):
        network = form.build(config, state)
    return fill(network, state, f"{system} ({layout})", form.published_name, form.left_out)


def fill(
    network: nn.Module,
    state: State,
    what: str,
    published_name: Callable[[str], str] = str,
    left_out: Collection[str] = (),
) -> nn.Module:
    """The network with these weights, in evaluation mode; without `published_name` they carry our own names."""
    state, wanted = _unwrapped(state), network.state_dict()
    theirs = {ours: published_name(ours) for ours in wanted}
    _check_fit(state, wanted, theirs, left_out, what)
    placed = {
        ours: state[theirs[ours]].reshape(value.shape).to(value.dtype) if theirs[ours] in state else value
        for ours, value in wanted.items()
    }
    network.load_state_dict(placed)
    return network.eval()


@contextmanager
def told(what: str) -> Iterator[None]:
    """A configuration that no network can be made of, whatever it fails on, as an error of the caller's."""
    try:
        yield
    except TalError:
        raise
    except KeyError as error:
        raise InvalidOptions(f"{what}: the configuration lacks {error}") from None
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        raise InvalidOptions(f"{what}: {first_line(error)}") from None


def find_layout(system: str, layout: str) -> Layout:
    if system not in LAYOUTS:
        raise InvalidOptions(f"system {system!r} is not known; accepted are {', '.join(LAYOUTS)}")
    if layout not in LAYOUTS[system]:
        raise InvalidOptions(f"{system} has no layout {layout!r}; accepted are {', '.join(LAYOUTS[system])}")
    return LAYOUTS[system][layout]


def _weights_in(content: Any, origin: str) -> dict[str, Tensor]:
    for key in NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise InvalidOptions(f"{origin}: holds {type(content).__name__}, not named weights")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InvalidOptions(f"{origin}: entry {name!r} is {type(value).__name__}, not a tensor by name")
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise InvalidOptions(f"{origin}: entry {name!r} is no plain tensor of numbers")
    return dict(content)


def _unwrapped(state: State) -> dict[str, Tensor]:
    for prefix in WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _check_fit(state: State, wanted: State, theirs: Mapping[str, str], left_out: Collection[str], what: str) -> None:
    missing = [
        f"{theirs[ours]}: expected {_shape(value)}, found nothing"
        for ours, value in wanted.items()
        if theirs[ours] not in state and not ours.endswith(COUNTER)
    ]
    wrong = [
        f"{theirs[ours]}: expected {_shape(value)}, found {_shape(state[theirs[ours]])}"
        for ours, value in wanted.items()
        if theirs[ours] in state and not _same_but_for_ones(state[theirs[ours]], value)
    ]
    known = set(theirs.values())
    unknown = [
        f"{name}: expected nothing of this name, found {_shape(value)}"
        for name, value in state.items()
        if name not in known and not any(re.fullmatch(pattern, name) for pattern in left_out)
    ]
    misfits = [*wrong, *missing, *unknown]
    if misfits:
        more = f"; and {len(misfits) - MISFITS_SHOWN} more" if len(misfits) > MISFITS_SHOWN else ""
        raise WeightsMismatch(f"weights do not fit {what}: {'; '.join(misfits[:MISFITS_SHOWN])}{more}")


def _same_but_for_ones(found: Tensor, wanted: Tensor) -> bool:
    """(1, C, 1) and (C,) hold the same numbers; anything else must agree axis by axis."""
    return [side for side in found.shape if side != 1] == [side for side in wanted.shape if side != 1]


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
