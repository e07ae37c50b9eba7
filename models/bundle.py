"""A bundle's folder in, a verified `Bundle` out; and back: a manifest and files in, a bundle's folder out."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from models.manifest import SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 4_000_000


class BundleError(ValueError):
    """A folder that is no bundle, or not the bundle that its manifest describes."""


@dataclass(frozen=True)
class Bundle:
    """A manifest whose files were found and, unless `read` was told otherwise, hashed."""

    folder: Path
    manifest: Manifest
    sha256: str

    def read_file(self, name: str) -> bytes:
        """The bytes of a file, hashed as they are read: what is verified is what is used."""
        content = _inside(self.folder, name).read_bytes()
        _check_digest(name, self.manifest.files[name].sha256, hashlib.sha256(content).hexdigest())
        return content

    def verify(self, *, except_for: Collection[str] = ()) -> None:
        """Hashes every listed file, except for those that the caller hashes when it reads them."""
        for name, record in self.manifest.files.items():
            if name in except_for:
                continue
            with _inside(self.folder, name).open("rb") as file:
                _check_digest(name, record.sha256, hashlib.file_digest(file, "sha256").hexdigest())


def read(folder: Path) -> Bundle:
    """Reads and checks the manifest; the files' digests are checked by `verify` or when a file is read."""
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; a bundle is a folder that holds {MANIFEST}")
    path = _inside(folder, MANIFEST)
    if not path.is_file():
        raise BundleError(f"{folder}: holds no {MANIFEST}, so it is not a bundle")
    if path.stat().st_size > MANIFEST_LIMIT_BYTES:
        raise BundleError(f"{path}: {path.stat().st_size} bytes; a manifest has at most {MANIFEST_LIMIT_BYTES}")
    content = path.read_bytes()
    manifest = parse_manifest(content, str(path))
    for name, record in manifest.files.items():
        file = _inside(folder, name)
        if not file.is_file():
            raise BundleError(f"{folder}: file {name!r} is missing; the manifest lists it")
        if file.stat().st_size != record.size_bytes:
            found = f"has {file.stat().st_size} bytes, the manifest says {record.size_bytes}"
            raise BundleError(f"{folder}: file {name!r} {found}: it was changed or damaged")
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def parse_manifest(content: bytes | str, origin: str = MANIFEST) -> Manifest:
    try:
        document = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{origin}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BundleError(f"{origin}: a manifest is a JSON object, not {type(document).__name__}")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION or type(version) is not int:
        raise BundleError(f"{origin}: schema_version {version!r} is not known; this release reads {SCHEMA_VERSION}")
    try:
        return Manifest.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise BundleError(f"{origin}: {explain(error)}") from None


def write(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle whole or not at all, filling in the manifest's `files`; an existing folder is refused."""
    check_free(folder)
    text = compose(manifest, files)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        for name, content in {**files, MANIFEST: text.encode()}.items():
            target = _inside(staging, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise BundleError(f"{folder}: cannot be written: {error.strerror}") from None
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return read(folder)


def check_free(folder: Path) -> None:
    """Refuses a folder that is there, or that could not be."""
    try:
        taken = folder.exists()
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written: {error.strerror}") from None
    if taken:
        raise BundleError(f"{folder}: exists already; choose another folder, name or version")


def compose(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """The text of manifest.json, checked, with the schema's version and the digests of `files` filled in."""
    records = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in files.items()
    }
    document = {"schema_version": SCHEMA_VERSION, **manifest, "files": records}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parse_manifest(text)
    return text


def _inside(folder: Path, name: str) -> Path:
    """The path of a listed file, refused when it would leave the bundle by `..`, an absolute path or a link."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        raise BundleError(
            f"{folder}: file name {name!r} is none or leaves the bundle; names are relative, with / but no .. \\ or :"
        )
    path = folder.joinpath(*parts)
    try:
        resolved = path.resolve()
        path.is_file()
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{folder}: file {name!r} cannot be looked up: {error}") from None
    if not resolved.is_relative_to(folder.resolve()):
        raise BundleError(f"{folder}: file {name!r} is a link to {resolved}, outside the bundle")
    return path


def _check_digest(name: str, wanted: str, found: str) -> None:
    if wanted != found:
        raise BundleError(f"file {name!r} has sha256 {found}, the manifest says {wanted}: it was changed or damaged")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def explain(error: ValidationError, whole: str = "manifest") -> str:
    """Pydantic's findings in one line each: where, what, the value; `whole` is what they are about."""
    lines = []
    for finding in error.errors(include_url=False):
        where = ".".join(str(part) for part in finding["loc"]) or whole
        if finding["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key")
        elif finding["type"] == "missing":
            lines.append(f"{where}: missing key")
        else:
            message = finding["msg"].removeprefix("Value error, ")
            value = "" if finding["type"] == "value_error" else f" (found {finding['input']!r:.80})"
            lines.append(f"{where}: {message}{value}")
    return "; ".join(lines)
