"""Every kind of file that people upload: frames, times, sizes and warnings, or the right refusal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.pipeline import decoders, edit_lists
from service.pipeline.containers import read_header
from service.pipeline.decode_child import sample_frames
from service.pipeline.decoders import TimedFrame
from service.pipeline.frame_views import FrameView
from service.pipeline.video import DecodeLimits, DecodeSummary, FrameBatch, VideoReader, decode, probe
from tests.service.pipeline.video_samples import Sample, add_stream, drawing, picture, read_number, steady, write

NATIVE = FrameView()
UNEVEN_S = [0.0, 0.04, 0.1, 0.12, 0.5, 0.52, 0.9, 1.0, 1.4, 1.9]

# name: frames, first and last presentation time in seconds, displayed size. `test_the_table_agrees_with_ffprobe` checks
# these numbers against a second program.
ODD_FILES: dict[str, tuple[int, float, float, tuple[int, int]]] = {
    "av1_video.mkv": (125, 0.0, 4.96, (640, 360)),
    "bbb_480p_vp9_opus_1second.webm": (24, 0.007, 0.965, (854, 480)),
    "bt709_full_range.mp4": (30, 0.0, 0.966667, (1280, 720)),
    "corrupted.mp4": (28, 0.0, 2.7, (1280, 720)),
    "delayed_start.mp4": (24, 1.075, 1.995, (480, 320)),
    "goldeneye-vfr-drop3.mp4": (160, 0.0, 9.926583, (1280, 544)),
    "h264_10bits.mp4": (30, 0.0, 0.966667, (200, 200)),
    "h265_10bits.mp4": (30, 0.0, 0.966667, (200, 200)),
    "h265_video.mp4": (10, 0.0, 0.9, (128, 128)),
    "issue-134-rotate.mp4": (240, 0.0, 9.968292, (544, 1280)),
    "nasa_13013.mp4": (390, 0.0, 12.979633, (480, 270)),
    "unordered.mov": (4, 0.0, 0.09375, (50, 50)),
    "var_fps_video.mp4": (300, 0.0, 14.933333, (128, 128)),
    "video_0.mov": (3, 0.0, 0.066667, (568, 320)),
    "video_180.mov": (3, 0.0, 0.066667, (568, 320)),
    "video_270.mov": (3, 0.0, 0.066667, (320, 568)),
    "video_90.mov": (3, 0.0, 0.066667, (320, 568)),
}
ONLY_SOUND = "nasa_13013.mp4.audio.mp3"
# On decord's allow-list; corrupted.mp4 falls back to PyAV, and the rest would only be decoded by PyAV twice.
ODD_FOR_DECORD = [
    "bbb_480p_vp9_opus_1second.webm", "bt709_full_range.mp4", "corrupted.mp4", "goldeneye-vfr-drop3.mp4",
    "h265_video.mp4", "unordered.mov", "video_0.mov",
]  # fmt: skip
VARIABLE_RATE = {"goldeneye-vfr-drop3.mp4", "var_fps_video.mp4"}
ANNOUNCED_FRAMES = {"corrupted.mp4": 50}

GENERATED: dict[str, Sample] = {
    "one_frame.mp4": Sample([0.0]),
    "240fps.mp4": Sample(steady(240, 240)),
    "60fps.mp4": Sample(steady(60, 60)),
    "b_frames.mp4": Sample(steady(30), b_frames=2),
    "hevc.mp4": Sample(steady(30), codec="libx265"),
    "uneven.mp4": Sample(UNEVEN_S),
    "uneven.mkv": Sample(UNEVEN_S, ticks_per_s=1000),
    "vp8.webm": Sample(steady(30), codec="libvpx", ticks_per_s=1000),
    "vp9.webm": Sample(steady(30), codec="libvpx-vp9", ticks_per_s=1000),
    "full_range.mp4": Sample(steady(5), pixel_format="yuvj420p", full_range=True),
    "wide_pixels.mp4": Sample(steady(5), pixel_aspect=Fraction(4, 3)),
    "late.mkv": Sample(steady(30, 25, 1.5)),
    "late.mp4": Sample(steady(30, 25, 1.5)),
    "fragments.mp4": Sample(steady(30), container_options={"movflags": "frag_keyframe+empty_moov"}),
    "10bit.mp4": Sample(steady(5), pixel_format="yuv420p10le"),
    "444.mp4": Sample(steady(5), pixel_format="yuv444p"),
    "transport.ts": Sample(steady(50), b_frames=2),
    "program.mpg": Sample(steady(50), codec="mpeg2video", ticks_per_s=25),
    "mpeg4.avi": Sample(steady(30), codec="mpeg4", ticks_per_s=25),
    "flash.flv": Sample(steady(30), ticks_per_s=1000),
    "bare.h264": Sample(steady(30)),
    "rotated.mp4": Sample(steady(5), rotation_deg=90),
}
# What decord may serve of them; the others are off its allow-list, each for the reason given.
SERVED_BY_DECORD = {
    "one_frame.mp4", "240fps.mp4", "60fps.mp4", "b_frames.mp4", "hevc.mp4", "uneven.mp4", "uneven.mkv", "vp8.webm",
    "vp9.webm", "full_range.mp4", "wide_pixels.mp4", "late.mkv",
}  # fmt: skip
REFUSED_BY_DECORD = {
    "late.mp4": "edit list",
    "fragments.mp4": "number of frames",
    "10bit.mp4": "yuv420p10le",
    "444.mp4": "yuv444p",
    "transport.ts": "mpegts",
    "mpeg4.avi": "avi",
    "rotated.mp4": "rotated",
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("samples")

    def make(name: str) -> Path:
        path = folder / name
        return path if path.exists() else write(path, GENERATED[name])

    return make


def read(path: Path, views: Sequence[FrameView] = (NATIVE,), **options: object) -> tuple[FrameBatch, DecodeSummary]:
    """The whole video as one batch."""
    with decode(path, views, **options) as reader:
        return join(reader)


def join(reader: VideoReader) -> tuple[FrameBatch, DecodeSummary]:
    batches = list(reader)
    assert [batch.first_index for batch in batches] == np.cumsum([0, *(len(b.times_s) for b in batches)])[:-1].tolist()
    pixels = tuple(np.concatenate(view) for view in zip(*(batch.pixels for batch in batches), strict=True))
    return FrameBatch(pixels, np.concatenate([batch.times_s for batch in batches]), 0), reader.summary


def ffprobe_times(path: Path) -> list[float]:
    command = ["ffprobe", "-v", "quiet", "-select_streams", str(best_stream(path)), "-show_frames"]
    report = subprocess.run([*command, "-of", "json", str(path)], capture_output=True, check=False).stdout
    return [float(frame.get("best_effort_timestamp_time", "nan")) for frame in json.loads(report)["frames"]]


def best_stream(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        return stream.index


# ---- the odd files ---------------------------------------------------------------------------------------------------


@pytest.mark.needs_assets
@pytest.mark.parametrize(
    ("name", "decoder"), [(name, "pyav") for name in ODD_FILES] + [(name, "decord") for name in ODD_FOR_DECORD]
)
def test_an_odd_file_has_the_frames_and_times_of_the_table(assets: Path, name: str, decoder: str) -> None:
    num_frames, first_s, last_s, (width_px, height_px) = ODD_FILES[name]
    with decode(assets / "videos/odd" / name, [NATIVE], decoder=decoder) as reader:
        info = reader.info
        batch, summary = join(reader)
    assert batch.pixels[0].shape == (num_frames, height_px, width_px, 3)
    assert (info.width_px, info.height_px) == (width_px, height_px)
    assert summary.num_frames == num_frames
    assert batch.times_s[[0, -1]] == pytest.approx([first_s, last_s], abs=1e-6)
    assert (summary.first_time_s, summary.last_time_s) == (batch.times_s[0], batch.times_s[-1])
    assert info.start_s == batch.times_s[0]
    assert np.all(np.diff(batch.times_s) > 0)
    assert summary.is_vfr is info.is_vfr is (name in VARIABLE_RATE)
    assert info.num_frames in {0, ANNOUNCED_FRAMES.get(name, num_frames)}


@pytest.mark.needs_assets
@pytest.mark.needs_ffmpeg
@pytest.mark.parametrize("name", ODD_FILES)
def test_the_table_agrees_with_ffprobe(assets: Path, name: str) -> None:
    num_frames, first_s, last_s, _ = ODD_FILES[name]
    times_s = ffprobe_times(assets / "videos/odd" / name)
    if name == "corrupted.mp4":  # ffprobe goes on after the damage
        assert len(times_s) > num_frames
        times_s = times_s[:num_frames]
    assert len(times_s) == num_frames
    assert [times_s[0], times_s[-1]] == pytest.approx([first_s, last_s], abs=1e-6)


@pytest.mark.needs_assets
def test_every_odd_file_is_in_the_table(assets: Path) -> None:
    assert {path.name for path in (assets / "videos/odd").iterdir()} == {*ODD_FILES, ONLY_SOUND}


@pytest.mark.needs_assets
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_frames_equal_the_reference_decoder_bit_for_bit(assets: Path, decoder: str) -> None:
    with np.load(assets / "decode_reference/frames.npz") as reference:
        keys = [key.split("/") for key in reference]
        assert len(keys) == 9
        for name in sorted({name for name, _, _ in keys}):
            batch, _ = read(assets / "videos/odd" / name, decoder=decoder)
            for _, stream, frame in (key for key in keys if key[0] == name):
                pixels = batch.pixels[0][int(frame.removeprefix("frame"))]
                np.testing.assert_array_equal(pixels, reference[f"{name}/{stream}/{frame}"])


@pytest.mark.needs_assets
def test_times_equal_the_reference_decoder(assets: Path) -> None:
    reference = json.loads((assets / "decode_reference/frame_times.json").read_text())["nasa_13013.mp4/stream3"]
    batch, _ = read(assets / "videos/odd/nasa_13013.mp4")
    assert batch.times_s == pytest.approx([float(frame["pts_time"]) for frame in reference], abs=1e-6)


@pytest.mark.needs_assets
@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_file_gives_the_frames_before_the_damage_and_a_warning(assets: Path, threads: int) -> None:
    batch, summary = read(assets / "videos/odd/corrupted.mp4", limits=DecodeLimits(threads=threads))
    assert len(batch.times_s) == 28
    (warning,) = summary.warnings
    assert warning.startswith("damaged at 2.800 s of 5.000 s announced")


@pytest.mark.needs_assets
def test_a_sound_file_has_no_video_stream(assets: Path) -> None:
    with pytest.raises(errors.NoVideoStream, match="audio"):
        probe(assets / "videos/odd" / ONLY_SOUND)


@pytest.mark.needs_assets
@pytest.mark.needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "tolerance"),
    # FFmpeg's conversion from 10 bits interpolates chroma, and how depends on its version; 8 bits are exact.
    [("bt709_full_range.mp4", 0), ("video_90.mov", 0), ("video_180.mov", 0), ("video_270.mov", 0),
     ("h264_10bits.mp4", 4), ("h265_10bits.mp4", 4)],
)  # fmt: skip
def test_colours_and_orientation_are_those_of_the_ffmpeg_program(assets: Path, name: str, tolerance: float) -> None:
    path = assets / "videos/odd" / name
    batch, _ = read(path)
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    expected = np.frombuffer(raw, dtype=np.uint8).reshape(batch.pixels[0].shape)
    difference = batch.pixels[0].astype(int) - expected
    assert np.abs(difference).mean() <= tolerance
    assert abs(difference.mean()) <= tolerance / 2


# ---- generated files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_gives_its_pictures_in_order_at_their_times(sample: Callable[[str], Path], name: str) -> None:
    wanted = GENERATED[name]
    batch, summary = read(sample(name), decoder="pyav")
    assert batch.times_s == pytest.approx(wanted.times_s, abs=6e-4)
    if not wanted.rotation_deg:
        assert [read_number(pixels) for pixels in batch.pixels[0]] == list(range(len(wanted.times_s)))
    assert summary.warnings == ()
    assert summary.decoder == "pyav"


@pytest.mark.needs_ffmpeg
@pytest.mark.parametrize("name", GENERATED)
def test_times_of_a_generated_file_agree_with_ffprobe(sample: Callable[[str], Path], name: str) -> None:
    if name == "bare.h264":
        pytest.skip("a bare stream has no timestamps; frames follow at the rate in its header")
    times_s = np.array(ffprobe_times(sample(name)))
    if Path(name).suffix in {".ts", ".mpg"}:
        times_s -= times_s[0]  # these clocks start anywhere; here the container starts with the video
    batch, _ = read(sample(name), decoder="pyav")
    assert len(batch.times_s) == len(times_s)
    known = ~np.isnan(times_s)  # a program stream dates some of its pictures; the others follow at its rate
    assert known[0]
    assert batch.times_s[known] == pytest.approx(times_s[known], abs=2e-6)


@pytest.mark.parametrize("name", sorted(SERVED_BY_DECORD))
def test_decord_gives_the_pixels_and_times_of_pyav(sample: Callable[[str], Path], name: str) -> None:
    pytest.importorskip("decord")
    by_decord, summary = read(sample(name), decoder="decord")
    by_pyav, expected = read(sample(name), decoder="pyav")
    np.testing.assert_array_equal(by_decord.pixels[0], by_pyav.pixels[0])
    np.testing.assert_array_equal(by_decord.times_s, by_pyav.times_s)
    assert summary.decoder == "decord"
    assert summary.warnings == ()
    assert (summary.num_frames, summary.is_vfr, summary.fps) == (expected.num_frames, expected.is_vfr, expected.fps)
    assert summary.end_s == pytest.approx(expected.end_s, abs=0.5 / expected.fps)


@pytest.mark.parametrize("name", REFUSED_BY_DECORD)
def test_what_decord_may_not_serve_is_decoded_by_pyav_with_a_note(sample: Callable[[str], Path], name: str) -> None:
    pytest.importorskip("decord")
    _, summary = read(sample(name), decoder="decord")
    assert summary.decoder == "pyav"
    (note,) = summary.warnings
    assert "decord does not serve this file" in note
    assert REFUSED_BY_DECORD[name] in note


@pytest.mark.needs_assets
def test_decord_agrees_with_pyav_on_real_clips(assets: Path) -> None:
    pytest.importorskip("decord")
    view = FrameView("short_side", 64)
    for path in sorted((assets / "videos/real").iterdir()):
        by_decord, summary = read(path, [view], fps=10, decoder="decord")
        by_pyav, expected = read(path, [view], fps=10, decoder="pyav")
        assert summary.decoder == "decord"
        np.testing.assert_array_equal(by_decord.pixels[0], by_pyav.pixels[0])
        np.testing.assert_array_equal(by_decord.times_s, by_pyav.times_s)
        assert summary.end_s == pytest.approx(expected.end_s, abs=1e-6)


def test_the_automatic_choice_is_the_benchmarks_winner() -> None:
    result = json.loads((Path(__file__).parents[3] / "benchmarks/results/decoders.json").read_text())
    assert result["winner"] == decoders.FASTER_DECODER
    assert (result["geometric_mean_pyav_to_decord"] >= 1) is (result["winner"] == "pyav")


def test_a_clip_beyond_decords_memory_budget_is_not_given_to_it(
    sample: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("decord")
    header = read_header(sample("60fps.mp4"))
    assert decoders.decord_refusal(sample("60fps.mp4"), header) is None
    monkeypatch.setattr(decoders, "DECORD_BUDGET_BYTES", 60 * 96 * 64 * 3 - 1)
    assert "budget" in str(decoders.decord_refusal(sample("60fps.mp4"), header))


@pytest.mark.needs_ffmpeg
def test_an_edit_list_that_drops_frames_is_obeyed_and_kept_from_decord(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", Sample(steady(50)))
    cut = tmp_path / "cut.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-ss", "0.72", "-i", whole, "-c", "copy", cut], check=True)
    assert edit_lists.edit_lists_are_trivial(whole)
    assert not edit_lists.edit_lists_are_trivial(cut)
    batch, summary = read(cut, decoder="decord")
    assert summary.decoder == "pyav"
    assert read_number(batch.pixels[0][0]) == 18
    assert batch.times_s == pytest.approx(steady(32), abs=1e-4)


def test_a_file_that_is_no_mp4_has_no_trivial_edit_list(tmp_path: Path) -> None:
    for content in (b"", b"\x00\x00\x00\x08moov", b"\x00\x00\x00\x01moov\xff" * 9, b"\x00\x00\x00\x04free"):
        (tmp_path / "odd.mp4").write_bytes(content)
        assert not edit_lists.edit_lists_are_trivial(tmp_path / "odd.mp4")


def test_a_single_8k_frame_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "8k.mp4", Sample([0.0], size_px=(7680, 4320)))
    batch, summary = read(path)
    assert batch.pixels[0].shape == (1, 4320, 7680, 3)
    assert summary.num_frames == 1
    assert read_number(batch.pixels[0][0]) == 0


def test_the_timeline_of_a_transport_stream_starts_with_its_first_stream(tmp_path: Path) -> None:
    """Sound begins half a second before the pictures, and the container's clock begins anywhere."""
    path = tmp_path / "late.ts"
    with av.open(str(path), "w") as container:
        pictures = Sample(steady(25, 25, 0.5))
        video = add_stream(container, pictures)
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        for index in range(60):
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            noise.sample_rate, noise.pts = 48_000, index * 1024
            container.mux(sound.encode(noise))
        container.mux(sound.encode(None))
        for index, time_s in enumerate(pictures.times_s):
            container.mux(video.encode(picture(pictures, index, time_s)))
        container.mux(video.encode(None))
    batch, _ = read(path)
    assert batch.times_s[0] == pytest.approx(0.5, abs=0.05)
    assert np.diff(batch.times_s) == pytest.approx(np.full(24, 0.04), abs=1e-4)


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_rotated_or_mirrored_file_comes_out_upright(tmp_path: Path, rotation_deg: int, mirrored: bool) -> None:
    path = write(tmp_path / "turned.mp4", Sample(steady(3), rotation_deg=rotation_deg, mirrored=mirrored))
    batch, _ = read(path)
    info = probe(path)
    turned = np.rot90(drawing(2, (96, 64)).astype(int), rotation_deg // 90)  # the file asks for counter-clockwise
    upright = turned[:, ::-1] if mirrored else turned
    assert batch.pixels[0].shape[1:] == upright.shape == (info.height_px, info.width_px, 3)
    assert info.rotation_deg == (360 - rotation_deg) % 360
    assert np.abs(batch.pixels[0][2] - upright).mean() < 6


def test_non_square_pixels_are_shown_square() -> None:
    wide = FrameView("short_side", 32)
    assert wide.output_size((128, 64)) == (64, 32)


def test_a_file_with_non_square_pixels_has_its_display_size(sample: Callable[[str], Path]) -> None:
    batch, _ = read(sample("wide_pixels.mp4"), [NATIVE, FrameView("short_side", 32)])
    assert batch.pixels[0].shape[1:] == (64, 128, 3)
    assert batch.pixels[1].shape[1:] == (32, 64, 3)
    assert probe(sample("wide_pixels.mp4")).width_px == 128


@pytest.mark.parametrize("name", ["10bit.mp4", "full_range.mp4", "444.mp4"])
def test_grey_levels_survive_ten_bits_full_range_and_full_chroma(sample: Callable[[str], Path], name: str) -> None:
    batch, _ = read(sample(name))
    assert np.abs(batch.pixels[0][0].astype(int) - drawing(0, (96, 64))).mean() < 4


def test_cover_art_is_not_a_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame(32, 32, "yuvj420p")))
        container.mux(cover.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 48_000
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    with pytest.raises(errors.NoVideoStream):
        probe(path)


# ---- damage and refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [("cut.mp4", {"movflags": "+faststart"}), ("cut.mkv", {}), ("cut.ts", {}), ("cut.webm", {}), ("cut.avi", {})],
)
def test_a_file_cut_short_gives_what_is_there_and_a_warning(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    codec = {"cut.webm": "libvpx-vp9", "cut.avi": "mpeg4"}.get(name, "libx264")
    ticks = 25 if codec == "mpeg4" else 90_000
    path = write(tmp_path / name, Sample(steady(100), codec=codec, ticks_per_s=ticks, container_options=options))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    batch, summary = read(path)
    assert 20 < len(batch.times_s) < 90
    assert [read_number(pixels) for pixels in batch.pixels[0]] == list(range(len(batch.times_s)))
    (warning,) = summary.warnings
    assert f"at {summary.end_s:.3f} s" in warning
    if name in {"cut.mp4", "cut.mkv", "cut.webm"}:
        assert "of 4.000 s announced" in warning


def test_frames_of_a_cut_file_are_those_of_the_whole_one(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mkv", Sample(steady(100), b_frames=2))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    before, _ = read(whole)
    after, _ = read(cut)
    np.testing.assert_array_equal(after.pixels[0], before.pixels[0][: len(after.times_s)])
    np.testing.assert_array_equal(after.times_s, before.times_s[: len(after.times_s)])


def test_damage_that_decord_passes_over_is_decoded_by_pyav(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = write(tmp_path / "flipped.mp4", Sample(steady(100), container_options={"movflags": "+faststart"}))
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content) - 500, 700):
        content[at] ^= 0x55
    path.write_bytes(content)
    by_decord, summary = read(path, decoder="decord")
    by_pyav, expected = read(path, decoder="pyav")
    assert 0 < len(by_pyav.times_s) < 100
    assert summary.decoder == "pyav"
    assert "decord" in summary.warnings[0]
    assert summary.warnings[1:] == expected.warnings
    np.testing.assert_array_equal(by_decord.pixels[0], by_pyav.pixels[0])


def png() -> bytes:
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 32, 32, "rgb24", Fraction(1, 25)
    return b"".join(bytes(packet) for packet in codec.encode(av.VideoFrame(32, 32, "rgb24")))


REFUSED: dict[str, tuple[Callable[[], bytes], type[errors.VideoError]]] = {
    "empty.mp4": (lambda: b"", errors.CorruptVideo),
    "text.mp4": (lambda: b"this is no video\n" * 500, errors.UnsupportedMedia),
    "page.mp4": (lambda: b"<!doctype html><title>404</title>" + b"<p>not found</p>" * 99, errors.UnsupportedMedia),
    "picture.mp4": (png, errors.UnsupportedMedia),
    "noise.mp4": (lambda: np.random.default_rng(0).bytes(50_000), errors.UnsupportedMedia),
    "no_moov.mp4": (lambda: b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41" + bytes(5000), errors.CorruptVideo),
    "only_header.mkv": (lambda: b"\x1a\x45\xdf\xa3" + bytes(100), errors.CorruptVideo),
    # Formats that make FFmpeg open what they name.
    "list.mp4": (lambda: b"ffconcat version 1.0\nfile 'secret.mp4'\n", errors.UnsupportedMedia),
    "stream.mp4": (lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n", errors.UnsupportedMedia),
    "session.mp4": (lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", errors.UnsupportedMedia),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_video_is_refused_with_the_right_error(tmp_path: Path, name: str) -> None:
    content, expected = REFUSED[name]
    write(tmp_path / "secret.mp4", Sample(steady(3)))
    write(tmp_path / "secret.ts", Sample(steady(3)))
    (tmp_path / name).write_bytes(content())
    with pytest.raises(expected, match=name):
        probe(tmp_path / name)


def test_a_missing_file_and_a_folder_are_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(errors.VideoNotFound):
            probe(path)


def test_a_codec_that_nobody_knows_is_unsupported(tmp_path: Path) -> None:
    path = write(tmp_path / "odd.mp4", Sample(steady(5), codec="mpeg4", ticks_per_s=25))
    path.write_bytes(path.read_bytes().replace(b"mp4v", b"zzzz").replace(b"esds", b"zzzz"))
    with pytest.raises(errors.UnsupportedMedia, match="codec"):
        probe(path)


def test_a_stream_without_frames_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = write(tmp_path / "frames.mp4", Sample(steady(5), container_options={"movflags": "frag_keyframe+empty_moov"}))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moof") - 4])
    with pytest.raises(errors.ZeroFrames):
        read(path)


def test_a_picture_size_that_changes_midway_is_brought_to_the_first(tmp_path: Path) -> None:
    small = write(tmp_path / "small.h264", Sample(steady(10)))
    large = write(tmp_path / "large.h264", Sample(steady(10), size_px=(192, 128)))
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    batch, summary = read(path)
    assert batch.pixels[0].shape == (20, 64, 96, 3)
    assert [read_number(pixels) for pixels in batch.pixels[0]] == [*range(10), *range(10)]
    assert summary.warnings == ("the picture changes to 192x128 px: brought to the first size",)


def test_timestamps_that_go_back_are_held(tmp_path: Path) -> None:
    path = tmp_path / "twice.ts"
    once = write(tmp_path / "once.ts", Sample(steady(25))).read_bytes()
    path.write_bytes(once + once)
    batch, summary = read(path)
    assert len(batch.times_s) == 50
    assert np.all(np.diff(batch.times_s) >= 0)
    assert any("go back" in warning for warning in summary.warnings)


def test_nothing_decodable_is_corrupt(tmp_path: Path) -> None:
    path = write(tmp_path / "noise.mp4", Sample(steady(25), container_options={"movflags": "+faststart"}))
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    path.write_bytes(content[:start] + np.random.default_rng(1).bytes(len(content) - start))
    with pytest.raises(errors.CorruptVideo):
        read(path)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (DecodeLimits(max_duration_s=1.0), errors.VideoTooLong),
        (DecodeLimits(max_frame_px=96 * 64 - 1), errors.VideoTooLarge),
        (DecodeLimits(max_file_bytes=100), errors.VideoTooLarge),
    ],
)
def test_a_video_beyond_a_limit_is_refused_with_value_and_limit(
    sample: Callable[[str], Path], limits: DecodeLimits, expected: type[errors.VideoError]
) -> None:
    with pytest.raises(expected, match="accepted are up to"):
        probe(sample("b_frames.mp4"), limits)


def test_a_length_that_the_header_hides_is_still_too_long(sample: Callable[[str], Path]) -> None:
    assert probe(sample("bare.h264")).duration_s == 0
    with pytest.raises(errors.VideoTooLong, match="goes on"):
        read(sample("bare.h264"), limits=DecodeLimits(max_duration_s=0.5))


# ---- views and sampling ----------------------------------------------------------------------------------------------


def test_several_views_come_from_one_pass(sample: Callable[[str], Path]) -> None:
    views = [NATIVE, FrameView("exact", (48, 40)), FrameView("short_side", 32, "area", (32, 32))]
    batch, _ = read(sample("60fps.mp4"), views)
    assert [pixels.shape[1:3] for pixels in batch.pixels] == [(64, 96), (40, 48), (32, 32)]
    assert [read_number(pixels) for pixels in batch.pixels[1]] == list(range(60))
    assert (
        repr(batch)
        == "FrameBatch(pixels=((60, 64, 96, 3), (60, 40, 48, 3), (60, 32, 32, 3)), times_s=(60,), first_index=0)"
    )


def test_a_crop_takes_the_centre(sample: Callable[[str], Path]) -> None:
    batch, _ = read(sample("60fps.mp4"), [NATIVE, FrameView(crop_px=(32, 16))])
    np.testing.assert_array_equal(batch.pixels[1], batch.pixels[0][:, 24:40, 32:64])


def test_a_crop_larger_than_the_picture_is_refused(sample: Callable[[str], Path]) -> None:
    with pytest.raises(errors.VideoTooSmall, match="224x224 px, but the picture is 96x64 px"):
        decode(sample("60fps.mp4"), [FrameView(crop_px=(224, 224))])


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": "long_side", "size_px": 5},
        {"resize": "short_side"},
        {"resize": "exact", "size_px": 5},
        {"size_px": 5},
        {"interpolation": "lanczos"},
        {"crop_px": (0, 5)},
        {"resize": "short_side", "size_px": 0},
    ],
)
def test_a_senseless_view_is_refused_when_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidOptions, match=r"accepted|takes"):
        FrameView(**wrong)


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": float("nan")}, {"fps": 1e9}, {"decoder": "opencv"}])
def test_senseless_options_are_refused(sample: Callable[[str], Path], wrong: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidOptions, match="accepted"):
        decode(sample("60fps.mp4"), [NATIVE], **wrong)
    with pytest.raises(errors.InvalidOptions, match="view"):
        decode(sample("60fps.mp4"), [])


def test_views_of_different_length_do_not_make_a_batch() -> None:
    with pytest.raises(ValueError, match="do not agree"):
        FrameBatch((np.zeros((2, 4, 4, 3), np.uint8),), np.zeros(3), 0)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("fps", [5.0, 10.0, 24.0, 100.0])
def test_sampling_shows_what_was_on_screen(sample: Callable[[str], Path], fps: float, decoder: str) -> None:
    batch, summary = read(sample("uneven.mp4"), fps=fps, decoder=decoder)
    assert batch.times_s == pytest.approx(np.arange(len(batch.times_s)) / fps)
    on_screen = np.searchsorted(UNEVEN_S, batch.times_s + 1e-4, side="right") - 1
    assert [read_number(pixels) for pixels in batch.pixels[0]] == on_screen.tolist()
    assert batch.times_s[-1] < summary.end_s <= batch.times_s[-1] + 1 / fps + 1e-6
    assert summary.num_frames == len(UNEVEN_S)


def test_sampling_at_the_videos_own_rate_gives_every_frame(sample: Callable[[str], Path]) -> None:
    for name in ("60fps.mp4", "vp9.webm", "late.mkv", "transport.ts"):
        times_s = GENERATED[name].times_s
        batch, _ = read(sample(name), fps=(len(times_s) - 1) / (times_s[-1] - times_s[0]))
        assert [read_number(pixels) for pixels in batch.pixels[0]] == list(range(len(times_s)))


@given(
    steps_s=st.lists(st.floats(0.001, 2.0), min_size=1, max_size=40),
    start_s=st.floats(-5, 5),
    fps=st.floats(0.3, 60),
)
def test_every_sample_is_the_latest_frame_begun_by_then(steps_s: list[float], start_s: float, fps: float) -> None:
    starts_s = (start_s + np.cumsum([0.0, *steps_s[:-1]])).tolist()
    frames = [TimedFrame(time_s, step_s, lambda: None) for time_s, step_s in zip(starts_s, steps_s, strict=True)]
    end_s = starts_s[-1] + steps_s[-1]
    tick_s = 1 / 90_000
    samples = list(sample_frames(iter(frames), fps, tick_s))
    assert [time_s for time_s, _ in samples] == pytest.approx([start_s + k / fps for k in range(len(samples))])
    assert (len(samples) - 1) / fps + start_s < end_s
    assert len(samples) / fps + start_s >= end_s - 2e-6
    for time_s, frame in samples:
        assert frame.time_s <= time_s + 2 * tick_s
        assert all(other.time_s >= time_s - 1e-9 for other in frames if other.time_s > frame.time_s)


def test_without_a_rate_every_frame_keeps_its_own_time() -> None:
    frames = [TimedFrame(time_s, 0.1, lambda: None) for time_s in UNEVEN_S]
    assert [time_s for time_s, _ in sample_frames(iter(frames), None, 0.001)] == UNEVEN_S


def test_the_summary_is_there_only_after_the_last_frame(sample: Callable[[str], Path]) -> None:
    with decode(sample("60fps.mp4"), [NATIVE]) as reader:
        with pytest.raises(RuntimeError, match="summary"):
            _ = reader.summary
        next(reader)
    assert list(reader) == []


def test_a_video_is_found_and_decoded_whatever_the_working_folder(
    sample: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sample("60fps.mp4")
    (tmp_path / "av.py").write_text("raise SystemExit('the working folder is not to be trusted')")
    monkeypatch.chdir(path.parent)
    assert probe(path.name).num_frames == 60
    monkeypatch.chdir(tmp_path)
    assert probe(os.path.relpath(path)).num_frames == 60


OFF_THE_LIST = {
    "interlaced.mp4": Sample(steady(20), codec_options={"x264-params": "interlaced=1"}),
    "interlaced.mkv": Sample(steady(20), codec_options={"x264-params": "interlaced=1"}),
    "odd_size.webm": Sample(steady(20), codec="libvpx", size_px=(65, 49)),
    "one_frame.mkv": Sample(steady(1)),
    "two_frames.mkv": Sample(steady(2)),
    "three_frames.mkv": Sample(steady(3)),
}


@pytest.mark.parametrize("name", OFF_THE_LIST)
def test_what_decord_reads_wrongly_is_read_by_pyav(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, OFF_THE_LIST[name])
    found = {}
    for decoder in ("pyav", "decord"):
        with decode(path, [FrameView()], decoder=decoder) as reader:
            batches = list(reader)
        assert reader.summary.decoder == "pyav"
        found[decoder] = (
            np.concatenate([batch.pixels[0] for batch in batches]),
            np.concatenate([batch.times_s for batch in batches]),
        )
    assert np.array_equal(found["pyav"][0], found["decord"][0])
    assert found["pyav"][1].tolist() == found["decord"][1].tolist()


def test_a_picture_that_changes_size_is_off_decord_s_list(tmp_path: Path) -> None:
    path = tmp_path / "grows.webm"
    with av.open(str(path), "w") as container:
        small = Sample(steady(10), codec="libvpx", size_px=(64, 48))
        stream = add_stream(container, small)
        packets = [packet for i in range(10) for packet in stream.encode(picture(small, i, i / 25))]
        packets += stream.encode(None)
        large = av.CodecContext.create("libvpx", "w")
        large.width, large.height, large.pix_fmt = 128, 96, "yuv420p"
        large.time_base = Fraction(1, 90_000)
        grown = Sample(steady(20), codec="libvpx", size_px=(128, 96))
        packets += [packet for i in range(10, 20) for packet in large.encode(picture(grown, i, i / 25))]
        packets += large.encode(None)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
    with decode(path, [FrameView()], decoder="decord") as reader:
        sizes = {batch.pixels[0].shape[1:] for batch in reader}
    assert reader.summary.decoder == "pyav"
    assert sizes == {(48, 64, 3)}
    assert any("changes" in warning for warning in reader.summary.warnings)


def test_a_last_picture_that_claims_to_stand_for_days_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lies.mkv"
    sample = Sample(steady(10), container_options={"live": "1"})
    with av.open(str(path), "w", options=sample.container_options) as container:
        stream = add_stream(container, sample)
        packets = [p for i, t in enumerate(sample.times_s) for p in stream.encode(picture(sample, i, t))]
        packets += stream.encode(None)
        packets[-1].duration = round(1e6 / packets[-1].time_base)
        for packet in packets:
            container.mux(packet)
    with decode(path, [FrameView()], fps=8.0) as reader:
        count = sum(len(batch.times_s) for batch in reader)
    assert count <= 100
    assert reader.summary.end_s <= 15
