"""Decoding in children: the same pixels, and nothing that a file does reaches the worker."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from inference.decoder_pool import DecoderLimits, DecoderPool
from inference.errors import DecoderLost, UndecodablePixels
from inference.pixel_file import Plane, read_planes
from inference.pixels import Padding, Rescale
from inference.volume import load_volume
from support.enhanced_ct import enhanced
from support.synthetic_ct import synthetic_series

ROOT = Path(__file__).resolve().parents[2]
MATRIX = 128
FAULTY = "support.faulty_decoder"
SMALL = DecoderLimits(memory_bytes=1 << 30, time_limit_s=20)
TIGHT = DecoderLimits(memory_bytes=512 << 20, time_limit_s=20)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = synthetic_series(tmp_path_factory.mktemp("series"), slices=8, matrix=MATRIX)
    return list(made.paths)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(2, SMALL) as started:
        yield started


@pytest.fixture(scope="module")
def faulty_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DecoderPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("marks")))
        with DecoderPool(2, DecoderLimits(512 << 20, 4), module=FAULTY) as started:
            yield started


@pytest.fixture(scope="module")
def tight_pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, TIGHT) as started:
        yield started


def named(series: list[Path], folder: Path, name: str, number: int = 3) -> list[Path]:
    """Copy the series; one of its files gets a name of its own."""
    paths = []
    for index, path in enumerate(series):
        copy = folder / (f"{name}.dcm" if index == number else path.name)
        copy.write_bytes(path.read_bytes())
        paths.append(copy)
    return paths


def children_of(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children()}


def plane(label: str = "x", size: int = MATRIX, index: int = 0) -> Plane:
    return Plane(index, label, size, size, Rescale(1.0, -1024.0), None)


# -- good series -----------------------------------------------------------------------------------


def test_the_same_volume_as_in_this_process(series: list[Path], pool: DecoderPool) -> None:
    expected = load_volume(series)
    for _ in range(2):
        assert np.array_equal(load_volume(series, pixels=pool).hu, expected.hu)


def test_the_same_frames_of_an_enhanced_ct(
    series: list[Path], pool: DecoderPool, tmp_path: Path
) -> None:
    path = enhanced(series, tmp_path / "enhanced.dcm")
    expected = load_volume([path])
    assert np.array_equal(load_volume([path], pixels=pool).hu, expected.hu)
    some = {path: (2, 3, 5, 8)}
    expected = load_volume([path], frames=some)
    assert np.array_equal(load_volume([path], frames=some, pixels=pool).hu, expected.hu)


def test_rescale_and_padding_go_along(series: list[Path], pool: DecoderPool) -> None:
    planes = [Plane(0, "x", MATRIX, MATRIX, Rescale(0.37, -1000.5), Padding(0, 40))]
    (expected,) = read_planes(series[0], planes)
    for hu in pool(series[0], planes):
        assert np.array_equal(hu, expected)


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["covid-ct-md/cap/cap001", "lung-pet-ct-dx/siemens_A0002_B40f"])
def test_real_series_are_equal_to_the_bit(folder: str, real_data: Path, pool: DecoderPool) -> None:
    paths = sorted((real_data / folder).glob("*.dcm"))[:40]
    assert np.array_equal(load_volume(paths, pixels=pool).hu, load_volume(paths).hu)


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore")  # of pydicom, about every oddity; load_volume does so, too
def test_every_malformed_file_ends_as_in_this_process(real_data: Path, pool: DecoderPool) -> None:
    """And none of them costs a child its life."""
    before = children_of(os.getpid())
    compared = 0
    for path in sorted((real_data / "malformed").rglob("*.dcm")):
        try:
            header = dcmread(path, stop_before_pixels=True)
            size = (int(header.Rows), int(header.Columns))
        except Exception:
            size = (MATRIX, MATRIX)
        planes = [Plane(0, path.name, *size, Rescale(), None)]
        if not 0 < size[0] * size[1] <= 1 << 20:
            continue
        assert outcome(pool, path, planes) == outcome(read_planes, path, planes), path
        compared += 1
    assert compared > 50
    assert children_of(os.getpid()) == before


def outcome(reader: Callable[..., Iterator[np.ndarray]], path: Path, planes: list[Plane]) -> object:
    try:
        return [hu.tobytes() for hu in reader(path, planes)]
    except UndecodablePixels as error:
        # Without the transfer syntax: its name depends on who else extended pydicom's dictionary.
        return re.sub(r" \([^()]*\)\.$", "", error.reason)


def test_a_child_imports_nothing_of_the_model() -> None:
    heavy = (
        "{'torch', 'torchvision', 'openvino', 'cv2', 'skimage', 'scipy', 'celery', 'sqlalchemy'}"
    )
    code = f"import inference.decoder_child, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -- files that do harm ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("segv", r"crashed the decoder \(Segmentation fault\)"),
        ("abort", r"crashed the decoder \(Aborted\)"),
        ("exit", r"ended the decoder \(exit code 3\)"),
        ("hang", "took longer than 4 s to decode"),
        ("swell", "needs more memory than is allowed"),
    ],
)
def test_a_fault_condemns_its_file_and_no_other(
    fault: str, words: str, series: list[Path], faulty_pool: DecoderPool, tmp_path: Path
) -> None:
    paths = named(series, tmp_path, fault)
    with pytest.raises(UndecodablePixels, match=rf"^The image {fault}\.dcm .*{words}") as caught:
        load_volume(paths, pixels=faulty_pool)
    assert caught.value.reason.endswith(".")
    others = [path for path in paths if path.stem != fault]
    volume = load_volume(others, pixels=faulty_pool)
    assert np.array_equal(volume.hu, load_volume(others).hu)


def test_a_child_that_an_earlier_file_spoiled_condemns_nobody(
    series: list[Path], faulty_pool: DecoderPool, tmp_path: Path
) -> None:
    paths = named(series, tmp_path, "once")
    assert np.array_equal(load_volume(paths, pixels=faulty_pool).hu, load_volume(paths).hu)


def test_a_frame_that_crashes_once_is_read_by_the_next_child(
    series: list[Path], faulty_pool: DecoderPool, tmp_path: Path
) -> None:
    path = enhanced(series, tmp_path / "once_multi.dcm")
    assert np.array_equal(load_volume([path], pixels=faulty_pool).hu, load_volume([path]).hu)


def test_killed_twice_from_outside_is_no_judgement_of_the_file(
    series: list[Path], faulty_pool: DecoderPool, tmp_path: Path
) -> None:
    with pytest.raises(DecoderLost, match="killed twice"):
        load_volume(named(series, tmp_path, "killed"), pixels=faulty_pool)


def test_an_error_of_ours_is_not_blamed_on_the_file(
    series: list[Path], faulty_pool: DecoderPool, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        load_volume(named(series, tmp_path, "bug"), pixels=faulty_pool)


def test_no_network_no_programs_no_words(
    series: list[Path], faulty_pool: DecoderPool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sys.platform == "linux"
    paths = named(named(series, tmp_path, "reach"), tmp_path, "noise", number=5)
    assert len(load_volume(paths, pixels=faulty_pool)) == len(series)
    assert "SECRET" not in "".join(capfd.readouterr())


def test_children_killed_mid_series(series: list[Path]) -> None:
    """By whoever: the kernel out of memory, an administrator. The series is read all the same."""
    expected = load_volume(series).hu
    others = children_of(os.getpid())
    with DecoderPool(2, SMALL) as pool:
        load_volume(series, pixels=pool)
        stop, has_started = threading.Event(), threading.Event()
        killed: set[int] = set()

        def kill_one_after_the_other() -> None:
            while not stop.is_set():
                # Whoever took the last one's place has read by now: a busy machine starts slowly.
                if not has_started.wait(0.1):
                    continue
                has_started.clear()
                for pid in sorted(children_of(os.getpid()) - others - killed)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

        killer = threading.Thread(target=kill_one_after_the_other)
        killer.start()
        try:
            deadline = time.monotonic() + 60
            while len(killed) < 3 and time.monotonic() < deadline:
                has_started.set()
                assert np.array_equal(load_volume(series, pixels=pool).hu, expected)
        finally:
            stop.set()
            killer.join()
        assert len(killed) >= 2
    assert children_of(os.getpid()) == others


def test_no_child_is_left_behind(series: list[Path], tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
from pathlib import Path
from inference.decoder_pool import DecoderLimits, DecoderPool
from inference.pixel_file import Plane, read_planes
from inference.pixels import Rescale
pool = DecoderPool(2, DecoderLimits(), module="support.faulty_decoder")
print("started", flush=True)
list(pool(Path(sys.argv[1]), [Plane(0, sys.argv[2], {MATRIX}, {MATRIX}, Rescale(), None)]))
print("read", flush=True)
time.sleep(60)
"""
    for label, awaited in (("good", b"read\n"), ("hang", b"started\n")):
        worker = subprocess.Popen(
            [sys.executable, "-c", code, str(series[0]), label], stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        while worker.stdout.readline() != awaited:
            assert worker.poll() is None
        if label == "hang":
            time.sleep(3)  # one child hangs inside the decoder: it sees no closed socket
        children = children_of(worker.pid)
        assert len(children) == 2
        worker.kill()
        worker.wait()
        worker.stdout.close()
        deadline = time.monotonic() + 10
        while any(psutil.pid_exists(pid) for pid in children):
            assert time.monotonic() < deadline, "a child outlived its worker"
            time.sleep(0.05)


def test_no_secret_of_the_worker_reaches_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3LUNG_LEDGER__URL", "postgresql://user:SECRET@host/db")
    with DecoderPool(1, SMALL) as pool:
        (pid,) = new_children(pool)
        assert "SECRET" not in Path(f"/proc/{pid}/environ").read_text()


def new_children(pool: DecoderPool) -> set[int]:
    lease = pool._idle.get()
    pool._idle.put(lease)
    return {lease.result().pid}


# -- bombs: small files that ask for gigabytes ----------------------------------------------------


def compressed(path: Path, target: Path, syntax: str) -> bytes:
    dataset = dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(target)
    return target.read_bytes()


def widened(content: bytes, marker: bytes, offset: int, shape: bytes) -> bytes:
    start = content.index(marker) + len(marker) + offset
    return content[:start] + shape + content[start + len(shape) :]


def jpeg_ls_bomb(path: Path, target: Path) -> None:
    content = compressed(path, target, JPEGLSLossless)
    target.write_bytes(widened(content, b"\xff\xf7", 3, struct.pack(">HH", 65535, 65535)))


def jpeg_2000_bomb(path: Path, target: Path) -> None:
    content = compressed(path, target, JPEG2000Lossless)
    content = widened(content, b"\xff\x51", 4, struct.pack(">LL", 65535, 65535))
    target.write_bytes(widened(content, b"\xff\x51", 20, struct.pack(">LL", 65535, 65535)))


def rle_bomb(path: Path, target: Path) -> None:
    """Two segments, each of repeat runs that give 60 times their length."""
    dataset = dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    segment = b"\x81\x00" * (12 << 20)
    header = struct.pack("<16L", 2, 64, 64 + len(segment), *([0] * 13))
    dataset.PixelData = encapsulate([header + segment + segment])
    dataset.save_as(target)


def deflate_bomb(path: Path, target: Path) -> None:
    """600 kB that inflate to 640 MiB."""
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(target)
    content = target.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")

    def piece(data: bytes, flush: int) -> bytes:
        """Deflate `data` so that it stands for itself, wherever it is put (RFC 1951 §3.2.3)."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(data) + packer.flush(flush)

    element = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", 40 << 24)
    zeros = piece(bytes(16 << 20), zlib.Z_FULL_FLUSH)
    packed = piece(element, zlib.Z_FULL_FLUSH) + 40 * zeros + piece(b"", zlib.Z_FINISH)
    target.write_bytes(content[:start] + packed)


def huge_header(path: Path, target: Path) -> None:
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(target)


@pytest.mark.parametrize(
    "make", [jpeg_ls_bomb, jpeg_2000_bomb, rle_bomb, deflate_bomb, huge_header]
)
def test_a_bomb_is_refused_and_the_worker_stays_small(
    make: Callable[[Path, Path], None], series: list[Path], tight_pool: DecoderPool, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.dcm"
    make(series[0], path)
    before = psutil.Process().memory_info().rss
    most = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for child in psutil.Process().children():
                try:
                    most.append(child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(UndecodablePixels, match=r"bomb\.dcm"):
            list(tight_pool(path, [plane("bomb.dcm")]))
    finally:
        stop.set()
        watcher.join()
    assert max(most) < TIGHT.memory_bytes + path.stat().st_size
    assert psutil.Process().memory_info().rss - before < 64 << 20
    list(tight_pool(series[0], [plane()]))  # and the next file is read
