"""Seconds and memory of one training step of each rival, and of both stages of M3Lung-Sys.

    python benchmarks/baselines.py [--slices 16] [--size 64] [--batch 1] [--steps 3] [--device cpu]

Without --slices and --size the inputs are those of the paper's Table III, which want a GPU. Each
network runs in a process of its own, so that its peak memory is its own. Inputs are random
numbers: the work is the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inference.engine import choose_device
from inference.patient_net import PatientNet
from inference.slice_net import SliceNet
from training.ablation.footprint import Footprint
from training.baselines import RIVALS

NAMES = (*RIVALS, "slice", "patient")


def main() -> int:
    options = parse()
    if options.only:
        print(json.dumps(measure(options)))
        return 0
    print("| network | input B×C×T×H×W | parameters | s per step | s per volume or slice | peak |")
    print("|---|---|---|---|---|---|")
    for name in NAMES:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode != 0:
            reason = child.stderr.strip().splitlines()[-1:] or [f"exit {child.returncode}"]
            print(f"| {name} | | | failed: {reason[0][:80]} | | |")
            continue
        found = json.loads(child.stdout)
        memory = "–" if found["peak_mib"] is None else f"{found['peak_mib']:.0f} MiB"
        print(
            f"| {name} | {found['input']} | {found['parameters'] / 1e6:.2f} M | "
            f"{found['step_s']:.3f} | {found['each_s']:.3f} | {memory} |"
        )
    where = choose_device(options.device)
    words = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    print(
        f"\n{words}, {options.threads or torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; forward, backward and optimiser, best of {options.steps}"
    )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=0, help="T; 0: the paper's")
    parser.add_argument("--size", type=int, default=0, help="H = W; 0: the paper's")
    parser.add_argument("--batch", type=int, default=0, help="0: the paper's")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, object]:
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    net, inputs, words = network(options)
    net = net.to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    inputs = inputs.to(device)
    seconds = []
    footprint = Footprint(Path("/nonexistent"), device)
    with footprint.watched():
        for _ in range(options.steps):
            began = time.perf_counter()
            step(net, inputs, optimizer)
            seconds.append(time.perf_counter() - began)
    return {
        "input": words,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "step_s": min(seconds),
        "each_s": min(seconds) / len(inputs),
        "peak_mib": asdict(footprint.cost)["peak_mib"],
    }


def step(net: torch.nn.Module, inputs: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    on_gpu = inputs.is_cuda
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=on_gpu):
        out = net(inputs)
        logits = out.class_logits if hasattr(out, "class_logits") else out
    labels = torch.arange(len(inputs), device=inputs.device) % 4
    torch.nn.functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    if on_gpu:
        torch.cuda.synchronize()


def network(options: argparse.Namespace) -> tuple[torch.nn.Module, torch.Tensor, str]:
    torch.manual_seed(0)
    if options.only == "patient":
        batch, slices = options.batch or 16, options.slices or 300
        return PatientNet(), torch.randn(batch, slices, 3072), f"{batch}×3072×{slices}×1×1"
    if options.only == "slice":
        batch, size = options.batch or 32, options.size or 512
        return SliceNet(), torch.randn(batch, 3, size, size), f"{batch}×3×1×{size}×{size}"
    rival = RIVALS[options.only]
    shape = (
        options.batch or rival.batch,
        rival.channels,
        options.slices or rival.slices,
        options.size or rival.size,
        options.size or rival.size,
    )
    return rival.make(rival.channels, "resnet50"), torch.randn(shape), "×".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
