"""What do maps of long windows cost? Full-size BMN and RCL at several lengths, one process per case.

    python -m benchmarks.map_memory --output benchmarks/results/map_memory.md

Random features of 2048 channels, random weights; the network in evaluation mode ("network") or as an ONNX graph
("onnx"), one window, one thread. Prints a table of peak resident memory and seconds; exits with 1 above 4 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

LIMIT_BYTES = 4_000_000_000
MIB = 1024 * 1024
CASES = ((128, 128), (256, 256), (512, 512), (1024, 256))

CHILD = """
import json, sys, time
from pathlib import Path

name, form, steps, durations, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])

def peak_bytes():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024

if form in ("network", "export"):
    import torch
    from exporters.exportable import from_detector
    from models.detectors import bmn, bmn_config, rcl, rcl_config
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if name == "bmn":
        network = bmn.Bmn(bmn_config.BmnConfig((2048,), steps, durations))
    else:
        network = rcl.Rcl(rcl_config.RclConfig((2048,), steps, durations, durations))
    network.eval()
    if form == "export":
        from exporters.to_onnx import to_onnx
        (folder / "graph.onnx").write_bytes(to_onnx(from_detector(network)))
        sys.exit()
    features, mask = torch.randn(1, 2048, steps), torch.ones(1, steps, dtype=torch.bool)
    def run():
        with torch.inference_mode():
            return network.decode(network(features, mask)).scores.sum().item()
else:
    import numpy as np, onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "graph.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = {
        "features": np.random.default_rng(0).standard_normal((1, 2048, steps), dtype=np.float32),
        "mask": np.ones((1, steps), bool),
    }
    def run():
        return float(session.run(["scores"], feeds)[0].sum())

loaded = peak_bytes()
began, began_cpu = time.monotonic(), time.process_time()
total = run()
told = {"loaded": loaded, "peak": peak_bytes(), "seconds": time.monotonic() - began, "total": total}
print(json.dumps({**told, "cpu_s": time.process_time() - began_cpu}))
"""


@dataclass(frozen=True)
class Run:
    name: str
    form: str
    steps: int
    durations: int
    loaded_bytes: int
    peak_bytes: int
    seconds: float
    cpu_s: float


def measure(name: str, form: str, steps: int, durations: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        sizes = [str(steps), str(durations), folder]
        if form == "onnx":
            subprocess.run([sys.executable, "-c", CHILD, name, "export", *sizes], check=True)
        command = [sys.executable, "-c", CHILD, name, form, *sizes]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return Run(name, form, steps, durations, told["loaded"], told["peak"], told["seconds"], told["cpu_s"])


def table(runs: list[Run]) -> str:
    head = [
        "| network | runs as | T | D | before | peak RSS | CPU time | wall time |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows = [
        f"| {run.name} | {run.form} | {run.steps} | {run.durations} | {run.loaded_bytes / MIB:.0f} MiB "
        f"| {run.peak_bytes / MIB:.0f} MiB | {run.cpu_s:.1f} s | {run.seconds:.1f} s |"
        for run in runs
    ]
    return "\n".join([*head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=CASES[-1][0], help="leave out cases of more steps")
    parser.add_argument("--forms", nargs="+", default=["network", "onnx"], choices=["network", "onnx"])
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    chosen = parser.parse_args()
    runs = []
    for steps, durations in CASES:
        for name in ("bmn", "rcl"):
            for form in chosen.forms:
                if steps <= chosen.longest:
                    runs.append(measure(name, form, steps, durations))
                    print(table(runs[-1:]).splitlines()[-1], flush=True)
    print(table(runs))
    if chosen.output:
        about = (
            "Full-size BMN and RCL (10 steps of refinement) over windows of T steps, spans of up to D; 2048 feature\n"
            "channels, random weights, one window, one thread. Before: process, libraries and network or graph."
        )
        chosen.output.write_text(f"# Memory of proposal maps\n\n{about}\n\n{table(runs)}\n")
    sys.exit(max(run.peak_bytes for run in runs) > LIMIT_BYTES)


if __name__ == "__main__":
    main()
