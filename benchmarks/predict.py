"""Slices per second of the slice network by engine, beside the matrix rate of the machine.

    python benchmarks/predict.py [--size 512] [--slices 4] [--rounds 3] [--json FILE]

A slice counts once per window. Engines take turns, so that a busy machine slows all; the fastest
round counts. The matrix rate is that of torch's own product of two large matrices in the precision
of the engine. Weights are random: the work is the same. int8 is quantised here, where NNCF is
installed; how far it agrees says `m3lung bundle quantize` of a trained model.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from figures import Figures, Ratio

from inference.bundle import Bundle, load_bundle, make_untrained_bundle
from inference.engine import choose_device, choose_precision, make_engine
from inference.openvino_engine import OpenVinoEngine
from training.quantization import quantize

GFLOP_AT_512 = 42.8  # one slice in one window, ResNet-50, multiplication and addition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="also where the CPU emulates it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_untrained_bundle(Path(folder) / "bundle")
        bundle = load_bundle(Path(folder) / "bundle")
    device = choose_device(options.device)
    engines = contestants(bundle, device, options)
    rates = dict.fromkeys(engines, 0.0)
    matrix = dict.fromkeys({dtype for _, dtype in engines.values()}, 0.0)
    for _ in range(options.rounds):
        for name, (work, _) in engines.items():
            rates[name] = max(rates[name], 1 / seconds(work))
        for dtype in matrix:
            matrix[dtype] = max(matrix[dtype], matrix_gflops(dtype, device))
    report(engines, rates, matrix, device, options)


Work = Callable[[], int]


def contestants(
    bundle: Bundle, device: torch.device, options: argparse.Namespace
) -> dict[str, tuple[Work, torch.dtype]]:
    """Return what to run by name: each returns how many slices it has read."""
    crop = bundle.manifest.preprocessing.crop
    object.__setattr__(crop, "input_size", options.size)
    windows = len(bundle.manifest.preprocessing.window.centers_hu)
    random = np.random.default_rng(0)
    crops = random.integers(-1024, 300, (options.slices, options.size, options.size), np.int16)
    found: dict[str, tuple[Work, torch.dtype]] = {
        "plain: torch float32 eager, one by one": (plain(bundle, device, options), torch.float32)
    }
    native = choose_precision("auto", device) == torch.bfloat16
    precisions = ["float32", "bfloat16"] if native or options.bf16 else ["float32"]
    names = ["torch"] if device.type == "cuda" else ["torch", "openvino"]
    for name in names:
        for precision in precisions:
            engine = make_engine(bundle, name=name, device=device.type, precision=precision)
            found[engine.description] = (
                lambda engine=engine: len(engine.read(crops).features) * windows,
                getattr(torch, precision),
            )
    if device.type == "cpu" and importlib.util.find_spec("nncf"):
        network, _ = quantize(bundle, crops)
        int8 = OpenVinoEngine(dataclasses.replace(bundle, int8=network), torch.int8)
        found[int8.description] = (lambda: len(int8.read(crops).features) * windows, torch.float32)
    return found


def plain(bundle: Bundle, device: torch.device, options: argparse.Namespace) -> Work:
    net = bundle.slice_net.eval().to(device)
    x = torch.randn(1, 3, options.size, options.size, device=device)

    @torch.inference_mode()
    def work() -> int:
        for _ in range(2):
            net(x).class_logits.cpu()
        return 2

    return work


def seconds(work: Work) -> float:
    """Seconds per slice."""
    began = time.perf_counter()
    done = work()
    return (time.perf_counter() - began) / done


def matrix_gflops(dtype: torch.dtype, device: torch.device) -> float:
    size = 8192 if device.type == "cuda" else 1536
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


def report(
    engines: dict[str, tuple[Work, torch.dtype]],
    rates: dict[str, float],
    matrix: dict[torch.dtype, float],
    device: torch.device,
    options: argparse.Namespace,
) -> None:
    gflop = GFLOP_AT_512 * (options.size / 512) ** 2
    figures = Figures(f"predict: {options.size} × {options.size}, {device.type}")
    first = next(iter(rates))
    fractions = {
        name: 100 * rate * gflop / matrix[engines[name][1]] for name, rate in rates.items()
    }
    for name, rate in rates.items():
        figures.rows.append(
            {"engine": name, "slices/s": rate, "× plain": rate / rates[first],
             "GFLOP/s": rate * gflop, "% of matrix rate": fractions[name],
             "300 × 3 windows, s": 900 / rate}
        )  # fmt: skip
    best = max((name for name in rates if "int8" not in name), key=rates.__getitem__)
    goal = 40.0 if device.type == "cuda" else None
    figures.ratios = [
        Ratio("predict: best engine, faster than plain torch", rates[best] / rates[first]),
        Ratio("predict: of the measured matrix rate", fractions[best], goal, unit="%"),
    ]
    figures.ratios += [
        Ratio("predict: int8, faster than the best of these", rate / rates[best])
        for name, rate in rates.items()
        if "int8" in name
    ]
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
        figures.ratios.append(Ratio("predict: GPU memory", peak, unit="GiB"))
    figures.finish(options.json)


if __name__ == "__main__":
    main()
