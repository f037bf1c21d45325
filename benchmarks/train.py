"""Training speed and memory of both stages, on made-up crops: images per second, peak memory.

    python benchmarks/train.py --sizes 128 224 512 --threads 1 2
    python benchmarks/train.py --loader            # how fast batches are made, without training

"/CPU s" is per second of processor time, so it says what a busy machine would give when idle. Peak
memory is the resident set of the process (on a GPU, what torch allocated there). Nothing is
read from the network; crops are random numbers, since speed does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inference.engine import choose_device, choose_precision
from inference.patient_net import PatientNet, PatientNetParameters
from inference.slice_net import SliceNet, SliceNetParameters
from inference.windowing import WindowParameters
from training.augmentation import augment, resize_crop
from training.draw import sample_rng
from training.processes import Processes
from training.recipe import Augmentation
from training.slice_batches import SliceBatch
from training.slices import slice_losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224, 512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--slices", type=int, default=100, help="of each volume, patient stage")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--loader", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments, *arguments.one.split(":"))))
        return
    if arguments.loader:
        measure_loader(arguments)
        return
    headings = ("size", "threads", "batch", "/s", "/CPU s", "peak MB")
    print(f"{'stage':<10}" + "".join(f"{word:>9}" for word in headings) + "  precision")
    for threads in arguments.threads:
        for size in arguments.sizes:
            report(arguments, "slices", size, threads)
        report(arguments, "patients", 0, threads)


def report(arguments: argparse.Namespace, stage: str, size: int, threads: int) -> None:
    """One measurement in a process of its own: peak memory belongs to a process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{stage}:{size}:{threads}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{stage:<10}{size or '-':>9}{threads:>9}{found['batch']:>9}{found['per_s']:>9.2f}"
        f"{found['per_cpu_s']:>9.2f}"
        f"{found['peak_mb']:>9.0f}  {found['dtype']}",
        flush=True,
    )


def measure(
    arguments: argparse.Namespace, stage: str, size: str, threads: str
) -> dict[str, object]:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    device = choose_device(arguments.device)
    processes = Processes(0, 1, device, choose_precision(arguments.precision, device))
    if stage == "slices":
        batch = arguments.batch
        step = slice_step(arguments, processes, int(size), batch)
    else:
        batch = 16
        step = patient_step(arguments, processes, batch)
    step()
    synchronize(device)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(arguments.steps):
        step()
    synchronize(device)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    dtype = str(processes.dtype).removeprefix("torch.")
    per_s = batch * arguments.steps / seconds
    per_cpu_s = batch * arguments.steps / cpu
    return {
        "per_s": per_s,
        "per_cpu_s": per_cpu_s,
        "peak_mb": peak,
        "batch": batch,
        "dtype": dtype,
    }


def slice_step(arguments: argparse.Namespace, processes: Processes, size: int, batch: int):
    net = SliceNet(SliceNetParameters(backbone=arguments.backbone)).to(processes.device)
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    made = SliceBatch(
        torch.empty(batch, size, size).uniform_(-1024, 100),
        torch.full((batch,), -600.0),
        torch.arange(batch) % 2,
        torch.arange(batch) % 4,
    ).to(processes.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with processes.autocast():
            lesion, classes, _ = slice_losses(net, made, WindowParameters(), 0.0)
        (lesion + classes).backward()
        optimizer.step()

    return step


def patient_step(arguments: argparse.Namespace, processes: Processes, batch: int):
    net = PatientNet(PatientNetParameters()).to(processes.device).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.001, momentum=0.9, weight_decay=5e-4)
    features = torch.randn(batch, arguments.slices, 3072, device=processes.device).abs()
    label = torch.arange(batch, device=processes.device) % 4

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with processes.autocast():
            logits = net(features)
        nn.functional.cross_entropy(logits.float(), label).backward()
        optimizer.step()

    return step


def measure_loader(arguments: argparse.Namespace) -> None:
    """Samples per second of one loader thread, from 512 px crops in memory."""
    crops = np.random.default_rng(0).integers(-1024, 100, (16, 512, 512)).astype(np.int16)
    print(f"{'size':>6}{'paper /s':>10}{'strong /s':>11}")
    for size in arguments.sizes:
        rates = []
        for recipe in (Augmentation(), Augmentation.strong()):
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < 1.0:
                crop = crops[count % len(crops)]
                augment(resize_crop(crop, size), recipe, sample_rng(0, 0, count))
                count += 1
            rates.append(count / (time.perf_counter() - began))
        print(f"{size:>6}{rates[0]:>10.0f}{rates[1]:>11.0f}", flush=True)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
