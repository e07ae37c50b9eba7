"""A decoder that hangs, crashes, eats memory or loses its parent costs one request and leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from service import errors
from service.pipeline.decode_process import CHILD_COMMAND, DecodeRequest
from service.pipeline.frame_views import FrameView
from service.pipeline.video import DecodeLimits, VideoReader, decode, probe
from tests.fuzz import fuzz_video
from tests.service.pipeline.video_samples import Sample, read_number, steady, write

pytestmark = pytest.mark.slow

NATIVE = FrameView()
ROOT = str(Path(__file__).parents[3])

# The real child with one part replaced, started like the real one: production code has no switch that does this.
FAULTY_CHILD = """
import ctypes, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from service.pipeline import decode_child, decoders
real = decoders.{decoder}.frames
def faulty(self):
    for index, frame in enumerate(real(self)):
        if index == {after}:
            {fault}
        yield frame
decoders.{decoder}.frames = faulty
decode_child.main(*map(int, sys.argv[2:]))
"""
FAULTS = {
    "hangs": ("time.sleep(600)", errors.DecodeTimeout, "no progress for 1.5 s"),
    "hangs in C with the interpreter locked": ("ctypes.PyDLL(None).sleep(600)", errors.DecodeTimeout, "no progress"),
    "crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", errors.DecoderCrashed, "SIGSEGV"),
    "aborts": ("os.abort()", errors.DecoderCrashed, "SIGABRT"),
    "eats memory": ("hoard = [bytearray(2**26) for _ in range(999)]", errors.DecodeOutOfMemory, "bytes allowed"),
    "leaves": ("os._exit(3)", errors.DecoderCrashed, "exit status 3"),
    "has a bug": ("raise LookupError('of its own')", errors.DecoderCrashed, "LookupError: of its own"),
    "sends nonsense": ("os.write(int(sys.argv[4]), b'\\xff' * 64)", errors.DecoderCrashed, "nonsense"),
}
QUICK = DecodeLimits(stall_s=1.5, memory_bytes=600 * 2**20)


def faulty_child(fault: str, decoder: str = "PyAvDecoder", after: int = 20) -> tuple[str, ...]:
    code = FAULTY_CHILD.format(fault=fault, decoder=decoder, after=after)
    return (sys.executable, "-P", "-c", code, ROOT)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("faults") / "video.mp4", Sample(steady(50)))


elsewhere: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    gc.collect()
    open_fds = num_fds()
    elsewhere.clear()
    elsewhere.update(psutil.Process().children(recursive=True))
    yield
    gc.collect()
    assert num_fds() <= open_fds + 1  # psutil keeps one for itself
    assert children() == []


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()


def num_fds() -> int:
    return psutil.Process().num_fds()


def children() -> list[psutil.Process]:
    """Every process below this one that the test started: not the servers and trackers that other tests still use."""
    return [child for child in psutil.Process().children(recursive=True) if child not in elsewhere]


def numbers(reader: VideoReader) -> list[int]:
    return [read_number(pixels) for batch in reader for pixels in batch.pixels[0]]


@pytest.mark.parametrize("name", FAULTS)
def test_a_decoder_that_fails_costs_one_typed_error(video: Path, name: str) -> None:
    fault, expected, message = FAULTS[name]
    request = DecodeRequest(str(video), (NATIVE,), decoder="pyav", limits=QUICK)
    with VideoReader(request, faulty_child(fault)) as reader:
        assert len(next(reader).times_s) == 16
        started_s = time.monotonic()
        with pytest.raises(expected, match=message):
            list(reader)
    assert time.monotonic() - started_s < 8
    with decode(video, [NATIVE]) as after:
        assert numbers(after) == list(range(50))


@pytest.mark.parametrize("name", FAULTS)
def test_pyav_takes_over_from_a_decord_that_fails_without_losing_a_frame(video: Path, name: str) -> None:
    pytest.importorskip("decord")
    request = DecodeRequest(str(video), (NATIVE,), decoder="decord", limits=QUICK)
    with VideoReader(request, faulty_child(FAULTS[name][0], "DecordDecoder")) as reader:
        batches = list(reader)
    shown = [read_number(pixels) for batch in batches for pixels in batch.pixels[0]]
    assert shown == list(range(50))
    assert np.concatenate([batch.times_s for batch in batches]) == pytest.approx(steady(50))
    assert [batch.first_index for batch in batches][:2] == [0, 16]
    assert reader.summary.decoder == "pyav"
    assert reader.summary.num_frames == 50
    assert reader.summary.warnings[0].startswith("PyAV took over after 16 frames, since decord failed")


def test_a_decoder_that_spins_is_stopped_by_its_processor_time(video: Path) -> None:
    spin = "[self for _ in iter(lambda: [sum(range(9999)), parent.send_progress(0.0)], None)]"
    code = faulty_child(spin)[3].replace("real = ", "parent = None\nreal = ", 1)
    code = code.replace("decode_child.main(", "original = decode_child.serve\n"
                        "def serve(p, *rest):\n    global parent\n    parent = p\n    original(p, *rest)\n"
                        "decode_child.serve = serve\ndecode_child.main(", 1)  # fmt: skip
    limits = DecodeLimits(stall_s=20.0, cpu_base_s=1.0, cpu_s_per_video_s=0.5)
    request = DecodeRequest(str(video), (NATIVE,), decoder="pyav", limits=limits)
    command = (sys.executable, "-P", "-c", code, ROOT)
    with VideoReader(request, command) as reader, pytest.raises(errors.DecodeTimeout, match="processor time"):
        list(reader)


def test_a_picture_that_does_not_fit_in_the_memory_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "8k.mp4", Sample([0.0], size_px=(7680, 4320)))
    with decode(path, [NATIVE], limits=DecodeLimits(memory_bytes=2**30)) as reader:
        assert len(list(reader)) == 1
    for memory_bytes in (mib * 2**20 for mib in (50, 300, 500, 600, 650, 675, 700)):
        with pytest.raises(errors.DecodeOutOfMemory, match=f"more than the {memory_bytes} bytes allowed"):
            list(decode(path, [NATIVE], limits=DecodeLimits(memory_bytes=memory_bytes)))


def test_a_slow_consumer_is_no_stall_and_memory_stays_flat(tmp_path: Path) -> None:
    """A ring of three slots bounds what is decoded ahead, whatever the length of the video."""
    path = write(tmp_path / "long.mp4", Sample(steady(600), size_px=(640, 360)))
    with decode(path, [NATIVE], decoder="pyav", limits=QUICK) as reader:
        next(reader)
        time.sleep(2.0)
        (child,) = children()
        early_bytes = child.memory_info().rss
        peak_bytes = max(child.memory_info().rss for _ in reader if child.is_running() and reader.info)
    assert peak_bytes - early_bytes < 24 * 2**20
    assert reader.summary.num_frames == 600


def test_frames_that_nobody_sampled_are_progress(tmp_path: Path) -> None:
    path = write(tmp_path / "sparse.mp4", Sample(steady(40)))
    slow = faulty_child("pass", after=0)[3].replace(
        "        yield frame", "        time.sleep(0.06)\n        yield frame"
    )
    limits = DecodeLimits(stall_s=1.8)
    request = DecodeRequest(str(path), (NATIVE,), fps=0.1, decoder="pyav", limits=limits)
    with VideoReader(request, (sys.executable, "-P", "-c", slow, ROOT)) as reader:
        assert numbers(reader) == [0]


def test_closing_early_ends_the_child_at_once(video: Path) -> None:
    with decode(video, [NATIVE]) as reader:
        next(reader)
        (child,) = children()
    assert not child.is_running()
    assert list(reader) == []
    reader.close()


def test_a_reader_that_is_dropped_ends_its_child(video: Path) -> None:
    reader = decode(video, [NATIVE])
    next(reader)
    (child,) = children()
    del reader
    gc.collect()
    assert not child.is_running()


def test_fifty_videos_leave_no_descriptor_and_no_process(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    probe(video)
    before = num_fds(), shared_memory()
    for turn in range(50):
        if turn % 3 == 0:
            with contextlib.suppress(errors.UnsupportedMedia):
                probe(tmp_path / "text.mp4")
        elif turn % 3 == 1:
            with decode(video, [NATIVE]) as reader:
                next(reader)
        else:
            with decode(video, [NATIVE]) as reader:
                assert sum(len(batch.times_s) for batch in reader) == 50
    assert (num_fds(), shared_memory()) == before
    assert children() == []


def test_the_child_outlives_the_thread_that_asked_for_it(video: Path) -> None:
    """Linux sends the parent-death signal when the starting thread ends, not when the process does."""
    readers: list[VideoReader] = []
    thread = threading.Thread(target=lambda: readers.append(decode(video, [NATIVE])))
    thread.start()
    thread.join()
    time.sleep(0.3)
    with readers[0] as reader:
        assert numbers(reader) == list(range(50))


def test_many_threads_decode_at_once(video: Path) -> None:
    shown: dict[int, list[int]] = {}

    def work(index: int) -> None:
        with decode(video, [NATIVE]) as reader:
            shown[index] = numbers(reader)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(shown.values()) == [list(range(50))] * 6


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from service.pipeline.decode_process import CHILD_COMMAND, DecodeRequest
from service.pipeline.video import DecodeLimits, FrameView, VideoReader
reader = VideoReader(DecodeRequest(sys.argv[2], (FrameView(),), decoder="pyav"), tuple(sys.argv[3:]) or CHILD_COMMAND)
next(reader)
print("ready", flush=True)
list(reader) if sys.argv[3:] else time.sleep(600)
"""


@pytest.mark.parametrize("state", ["waits for a free slot", "hangs in C with the interpreter locked", "spins"])
def test_the_child_dies_with_its_parent(video: Path, tmp_path: Path, state: str) -> None:
    long = write(tmp_path / "long.mp4", Sample(steady(300)))
    before = shared_memory()
    fault = {"spins": "[None for _ in iter(int, 1)]"}.get(state) or FAULTS.get(state, ("",))[0]
    command = faulty_child(fault) if fault else ()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, ROOT, str(long), *command], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        child.wait(timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert shared_memory() == before


def test_mutated_videos_give_frames_or_typed_errors() -> None:
    report = fuzz_video.Report()
    fuzz_video.fuzz(50, seed=1, report=report)
    assert report.violations == []
    assert sum(counts.total() for counts in report.outcomes.values()) == 50


def test_an_interrupt_meant_for_the_parent_does_not_end_the_child(video: Path) -> None:
    with decode(video, [NATIVE]) as reader:
        next(reader)
        (child,) = children()
        child.send_signal(signal.SIGINT)
        assert sum(len(batch.times_s) for batch in reader) == 34


def test_nothing_is_printed_about_a_broken_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "cut.mp4", Sample(steady(50), container_options={"movflags": "+faststart"}))
    path.write_bytes(path.read_bytes()[:-1500])
    for decoder in ("pyav", "decord"):
        with decode(path, [NATIVE], decoder=decoder) as reader:
            assert list(reader)
    assert capfd.readouterr() == ("", "")


def test_the_child_is_the_same_interpreter_without_the_working_folder() -> None:
    assert CHILD_COMMAND[:2] == (sys.executable, "-P")


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.1])
def test_any_thread_may_close_while_another_reads(video: Path, delay_s: float) -> None:
    for _ in range(5):
        reader = decode(video, [FrameView("exact", (1280, 720))])
        counted: list[int] = []
        reading = threading.Thread(target=lambda: counted.extend(len(b.times_s) for b in reader), daemon=True)  # noqa: B023
        reading.start()
        time.sleep(delay_s)
        reader.close()
        reading.join(10)
        assert not reading.is_alive()


def test_first_readers_in_many_threads_share_one_starter() -> None:
    script = f"""
import sys, threading
sys.path.insert(0, {ROOT!r})
sys.setswitchinterval(1e-6)
from service.pipeline import decode_process
for _ in range(300):
    decode_process._spawners.clear()
    found = []
    gate = threading.Barrier(4)
    def use():
        gate.wait()
        found.append(decode_process._spawner())
    threads = [threading.Thread(target=use) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    assert len(set(map(id, found))) == 1
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
