"""How much memory does a long video cost a detector? Full-size ones over the features of up to two hours.

    python -m tests.soak.detector_memory        54 000 snippets: two hours at 30 frames per second, one every 4 frames

Random features of 2048 channels go through everything that follows the backbone: windows, graph, suppression, seconds.
Prints a table for both export formats; exits with 1 when the peak exceeds 4 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from exporters import networks
from exporters.export import EXPORTERS, SUFFIXES, Format
from exporters.exportable import from_detector
from models import bundle as bundles
from models.catalog import DETECTORS
from tests.support import bundles as tiny
from tests.support import graphs

TWO_HOURS_SNIPPETS = 54_000
LIMIT_BYTES = 4_000_000_000
MIB = 1024 * 1024

CHILD = """
import json, sys, time
import numpy as np
from pathlib import Path
from service.localization import DetectOptions
from service.pipeline import detection, segments
from service.pipeline.features import FeatureSequence
from service.pipeline.snippets import SnippetGrid
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions

def peak_bytes():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024

folder, digest, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
model = loaded_model.load(folder, OnnxOptions(device="cpu"), trusted_torch=[digest])
loaded_bytes = peak_bytes()
values = np.random.default_rng(0).standard_normal((count, 2048), dtype=np.float32)
num_frames = (count - 1) * 4 + 16
grid = SnippetGrid(np.arange(num_frames) / 30, num_frames / 30, 4, 8)
began = time.monotonic()
rules = model.manifest.postprocessing.evaluation
found = detection.detect(FeatureSequence(values, None, grid, 16), model, rules)
answer = segments.finalize(found.detections, found.grid, rules, model.manifest.labels, DetectOptions())
seconds = time.monotonic() - began
print(json.dumps({"loaded": loaded_bytes, "peak": peak_bytes(), "seconds": seconds, "segments": len(answer)}))
"""


@dataclass(frozen=True)
class Run:
    detector: str
    form: Format
    snippets: int
    loaded_bytes: int
    peak_bytes: int
    seconds: float
    segments: int


def make_bundle(folder: Path, name: str, form: Format) -> bundles.Bundle:
    entry = DETECTORS[name]
    config = entry.presets["thumos"]()
    network = networks.scatter(entry.network(config), seed=0).eval()
    detector = f"detector{SUFFIXES[form]}"
    manifest = tiny.manifest(
        labels=[f"action {number}" for number in range(config.num_classes)],
        streams=[tiny.stream(outputs={"features": "features"}, clip_frames=16)],
        grid={"fps": "native", "stride_frames": 4, "offset_frames": 8, "tail": "drop"},
        output_kind="candidates",
        windowing=entry.windowing(config.lengths),
        detector={"graph": detector, "groups": "groups"},
        postprocessing=entry.rules["thumos"](),
    )
    files = {
        "features.rgb.onnx": graphs.brightness_features(channels=2048),
        detector: EXPORTERS[form](from_detector(network)),
    }
    return bundles.write(folder, manifest, files)


def measure(bundle: bundles.Bundle, name: str, form: Format, snippets: int) -> Run:
    command = [sys.executable, "-c", CHILD, str(bundle.folder), bundle.sha256, str(snippets)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return Run(name, form, snippets, told["loaded"], told["peak"], told["seconds"], told["segments"])


def table(runs: list[Run]) -> str:
    head = [
        "| detector | format | snippets | model loaded | peak RSS | wall time | segments |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    rows = [
        f"| {run.detector} | {run.form} | {run.snippets} | {run.loaded_bytes / MIB:.0f} MiB "
        f"| {run.peak_bytes / MIB:.0f} MiB | {run.seconds:.0f} s | {run.segments} |"
        for run in runs
    ]
    return "\n".join([*head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snippets", type=int, default=TWO_HOURS_SNIPPETS)
    parser.add_argument("--detectors", nargs="*", default=["actionformer", "amnet"], choices=DETECTORS)
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    chosen = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        forms: tuple[Format, ...] = ("onnx", "torchscript")
        for name, form in product(chosen.detectors, forms):
            bundle = make_bundle(Path(folder) / f"{name}-{form}", name, form)
            runs += [measure(bundle, name, form, count) for count in (chosen.snippets // 10, chosen.snippets)]
    found = table(runs)
    print(found)
    if chosen.output:
        about = "Full-size detectors (preset `thumos`, 2048 feature channels, random weights), one process each:"
        chosen.output.write_text(f"# Memory of the detector\n\n{about}\n\n{found}\n")
    sys.exit(max(run.peak_bytes for run in runs) > LIMIT_BYTES)


if __name__ == "__main__":
    main()
