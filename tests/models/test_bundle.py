"""What a bundle promises: it is read as written, and everything wrong with it is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import bundle as bundles
from models.bundle import BundleError
from models.manifest import Manifest
from tests.models import bundle_schema
from tests.support import bundles as tiny

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.classifier(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(folder: Path, change: Any) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_written_bundle_reads_back_and_verifies(folder: Path) -> None:
    bundle = bundles.read(folder)
    bundle.verify()
    assert bundle.manifest.labels == ("bright", "dark")
    assert len(bundle.sha256) == 64


def test_the_digest_of_a_bundle_changes_with_any_key_of_its_manifest(folder: Path) -> None:
    before = bundles.read(folder).sha256
    edit(folder, lambda document: document.update(licence="MIT"))
    assert bundles.read(folder).sha256 != before


def test_an_existing_folder_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(BundleError, match="exists already"):
        tiny.classifier(folder)


def test_a_refused_manifest_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        tiny.classifier(tmp_path / "bundle", output_kind="guesses")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="red"), r"colour: unknown key"),
        (lambda d: d["grid"].update(stride=3), r"grid\.stride: unknown key"),
        (lambda d: d["postprocessing"]["use"].update(nms_kind="soft"), r"postprocessing\.use\.nms_kind: unknown key"),
        (lambda d: d.pop("labels"), r"labels: missing key"),
        (lambda d: d.update(schema_version=99), r"schema_version 99 is not known; this release reads 1"),
        (lambda d: d.update(name="Bad Name"), r"name: String should match pattern"),
        (
            lambda d: d["grid"].update(stride_frames=0),
            r"grid\.stride_frames: Input should be greater than or equal to 1",
        ),
        (lambda d: d["grid"].update(stride_frames="4"), r"grid\.stride_frames: .*valid integer \(found '4'\)"),
        (lambda d: d.update(labels=["a", "a"]), r"labels name 'a' more than once"),
        (
            lambda d: d.update(label_groups=[{"label": "x", "members": ["cat"]}]),
            r"name 'cat', which labels does not hold",
        ),
        (lambda d: d["streams"][0].update(graph="other.onnx"), r"graph 'other\.onnx' has no entry in files"),
        (lambda d: d["streams"][0].update(kind="flow"), r"kind flow and the key flow go together"),
        (lambda d: d["streams"][0].update(outputs={}), r"must name its features output, its scores output, or both"),
        (lambda d: d["streams"][0]["resize"].update(size_px=16), r"size_px 16 does not fit mode 'exact'"),
        (lambda d: d["streams"][0].update(input={"scale": 0.5}), r"uint8 input takes no scale"),
        (lambda d: d.update(output_kind="candidates"), r"without a detector the output kind is activations"),
        (lambda d: d["postprocessing"]["use"].pop("grouping"), r"grouping goes with the output kind activations"),
        (lambda d: d["files"]["features.rgb.onnx"].update(sha256="abc"), r"files\.features\.rgb\.onnx\.sha256"),
        (lambda d: d.update(labels=[]), r"labels: .*at least 1 item"),
        (lambda d: d.update(labels=["", "b"]), r"labels\.0: String should have at least 1 character"),
        (lambda d: d.update(labels=["a\nb", "b"]), r"labels\.0: String should match pattern"),
        (lambda d: d["grid"].update(fps=5000), r"grid\.fps\.\S+: Input should be less than or equal to 1000"),
        (
            lambda d: d["grid"].update(stride_frames=10**15),
            r"grid\.stride_frames: Input should be less than or equal to",
        ),
        (lambda d: d["grid"].update(offset_frames=float("inf")), r"not JSON: Infinity is not a JSON number"),
        (lambda d: d["grid"].update(stride_frames=2), r"support 'mean' needs clips without gaps"),
        (
            lambda d: d["streams"][0].update(input={"dtype": "float32", "mean": [0, 1]}),
            r"has 2 numbers; 1 or 3 are needed",
        ),
        (lambda d: d["streams"][0].update(crop_px=[17, 8]), r"crop_px \[17, 8\] is larger than frames are"),
        (lambda d: d["postprocessing"]["use"].update(top_k_per_window=5), r"top_k_per_window: rules for candidates"),
        (lambda d: d["postprocessing"]["use"].update(voting={"iou_threshold": 0.5}), r"voting moves what suppression"),
        (lambda d: d["postprocessing"]["use"].update(min_length_s=3, max_length_s=2), r"max_length_s 2.0 is less than"),
        (
            lambda d: d["files"].update({"manifest.json": d["files"]["features.rgb.onnx"]}),
            r"files lists manifest\.json",
        ),
    ],
)
def test_a_manifest_that_says_something_wrong_is_refused_by_name(folder: Path, change: Any, message: str) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=message):
        bundles.read(folder)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a/../../b", "c:\\x", "a\\b", "", "a\0b"])
def test_a_file_name_that_leaves_the_bundle_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda d: d["files"].update({name: {"sha256": "0" * 64, "size_bytes": 1}}))
    with pytest.raises(BundleError, match="leaves the bundle"):
        bundles.read(folder)


def test_a_link_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    outside.write_bytes((folder / "features.rgb.onnx").read_bytes())
    (folder / "features.rgb.onnx").unlink()
    (folder / "features.rgb.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="outside the bundle"):
        bundles.read(folder)


def test_a_changed_file_is_refused(folder: Path) -> None:
    path = folder / "features.rgb.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BundleError, match=r"'features\.rgb\.onnx' has sha256 \w+, the manifest says"):
        bundles.read(folder).verify()
    with pytest.raises(BundleError, match="changed or damaged"):
        bundles.read(folder).read_file("features.rgb.onnx")


def test_a_file_of_another_size_is_refused_before_it_is_hashed(folder: Path) -> None:
    path = folder / "features.rgb.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"has \d+ bytes, the manifest says \d+"):
        bundles.read(folder)


def test_a_manifest_that_is_a_link_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").rename(tmp_path / "elsewhere.json")
    (folder / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match="outside the bundle"):
        bundles.read(folder)


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"licence"', '"name": "other", "licence"', 1))
    with pytest.raises(BundleError, match="key 'name' stands twice"):
        bundles.read(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "features.rgb.onnx").unlink()
    with pytest.raises(BundleError, match=r"file 'features\.rgb\.onnx' is missing"):
        bundles.read(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '"text"', '{"schema_version": NaN}', "\udcff", "[" * 100_000, '{"schema_version": true}']
)
def test_what_is_no_manifest_at_all_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError):
        bundles.read(folder)


def test_a_folder_without_manifest_and_no_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        bundles.read(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        bundles.read(tmp_path / "nowhere")


def test_label_groups_replace_their_members_among_segment_labels() -> None:
    described = tiny.manifest(
        labels=["run", "walk", "sit"],
        label_groups=[{"label": "move", "members": ["run", "walk"]}],
        files={"features.rgb.onnx": {"sha256": "0" * 64, "size_bytes": 1}},
    )
    assert Manifest.model_validate_json(json.dumps(described)).segment_labels == ("sit", "move")


def test_the_published_schema_is_the_one_in_the_code() -> None:
    assert (DOCS / "bundle.schema.json").read_text() == bundle_schema.text(), "run `make schema`"


def test_every_key_of_the_schema_is_explained() -> None:
    page = (DOCS / "bundle.md").read_text()
    missing = [key for key in bundle_schema.names() if f"`{key}`" not in page]
    assert not missing, f"docs/bundle.md does not explain {missing}"
