"""A file of features that others made in; one video's array out, or the videos whose arrays are missing."""

from __future__ import annotations

import contextlib
import importlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from service.errors import InvalidOptions
from service.runtime.session import Array
from training.feature_names import names_of, unfindable

HDF5 = (".h5", ".hdf5")
NPY, ZIP = b"\x93NUMPY", b"PK"  # what such files begin with

# What readers raise for damaged content; a header may ask for any amount of memory, or hold anything at all.
DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error),
    *(MemoryError, TypeError, SyntaxError, OverflowError, tokenize.TokenError),
)


def read_one(path: Path, array: str | None, video: str) -> Array:
    """What the file holds of a video; `array` is the name of it in an archive, where `{video}` stands for the video."""
    template = _template(path, array)
    if path.suffix == ".npy":
        return _read_npy(path)
    if path.suffix == ".npz":
        return _choose(read_npz(path), template and _filled(template, video), path)
    if template and path.suffix in HDF5:
        return _read_h5(path, _filled(template, video))
    raise InvalidOptions(f"{path}: features are read from .npy, .npz, .h5 and .hdf5; found {path.suffix!r}")


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an archive, by name."""
    with _open_npz(path) as archive:
        return {name: archive[name] for name in archive.files}


def lacking(source: Path, videos: Sequence[str], array: str | None = None) -> list[str]:
    """The videos, in words, that have no features in a folder, or in the one file of all, where names are those of
    `read_one`; no array is read."""
    if not source.is_file():
        return unfindable(source, videos)
    template = _template(source, array)
    if template is None:
        return []
    wanted = {video: _filled(template, video) for video in videos}
    there = _present(source, [name for names in wanted.values() for name in names])
    return [
        f"{source}: no features of {video!r}: it holds neither {' nor '.join(names)}"
        for video, names in wanted.items()
        if there.isdisjoint(names)
    ]


def _template(path: Path, array: str | None) -> str | None:
    """How the file names what it holds of a video; None where it may hold one array alone."""
    if path.suffix == ".npz":
        return array
    return array or "{video}" if path.suffix in HDF5 else None


def _filled(template: str, video: str) -> list[str]:
    return [template.replace("{video}", name) for name in names_of(video)]


def _choose(arrays: Mapping[str, Array], names: Sequence[str] | None, path: Path) -> Array:
    if names is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    found = next((name for name in names or () if name in arrays), None)
    if found is None:
        wanted = "one must be named" if names is None else f"{names[0]!r} is none of them"
        raise InvalidOptions(f"{path}: holds the arrays {', '.join(map(repr, arrays)) or 'none'}; {wanted}")
    return arrays[found]


def _present(path: Path, names: Sequence[str]) -> set[str]:
    """Those of the names that an archive knows."""
    if path.suffix in HDF5:
        with _open_h5(path) as file:
            return {name for name in names if name in file}
    with _open_npz(path) as archive:
        return set(names) & set(archive.files)


def _read_npy(path: Path) -> Array:
    with _explained(path), path.open("rb") as file:
        _check_beginning(file, NPY, "no array of NumPy's")
        return np.asarray(np.load(file, allow_pickle=False))


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    with _explained(path), path.open("rb") as file:
        _check_beginning(file, ZIP, "no archive of NumPy's arrays")
        yield np.load(file, allow_pickle=False)


def _check_beginning(file: BinaryIO, wanted: bytes, told: str) -> None:
    """NumPy takes what begins otherwise for a pickle, and says so."""
    found = file.read(len(wanted))
    file.seek(0)
    if found != wanted:
        raise ValueError(f"it is {told}" if found else "it is empty")


def _read_h5(path: Path, names: Sequence[str]) -> Array:
    with _open_h5(path) as file:
        found = next((file[name] for name in names if name in file), file)
        members = list(found.values()) if hasattr(found, "values") else [found]
        if found is file or len(members) != 1 or not hasattr(members[0], "dtype"):
            some = ", ".join(map(repr, sorted(file)[:5]))
            raise InvalidOptions(f"{path}: holds no data set {names[0]!r}; it has {len(file)} entries: {some} …")
        return np.asarray(members[0][()])


@contextlib.contextmanager
def _open_h5(path: Path) -> Iterator[Any]:
    try:
        h5py = importlib.import_module("h5py")  # only those who have such files need it
    except ModuleNotFoundError:
        raise InvalidOptions(f"{path}: reading it needs h5py, which is not installed: pip install h5py") from None
    with _explained(path), h5py.File(path, "r") as file:
        yield file


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What readers say of a damaged file, with its name."""
    try:
        yield
    except DAMAGED as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else f"{error}"
        raise InvalidOptions(f"{path}: cannot be read as features: {what}") from None
