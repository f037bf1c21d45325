"""The built wheel: exactly the three packages, nothing forgotten, nothing else."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dicom_node", "inference", "training")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout so that nothing is left behind in it."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    source.mkdir()
    # What a build sees, without environments and caches; `git archive` would miss unsaved work.
    names = ["pyproject.toml", "README.md", "LICENSE", *PACKAGES, "tests"]
    subprocess.run(
        ["cp", "-r", *(str(ROOT / name) for name in names), str(source)],
        check=True,
    )
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _metadata(wheel: Path, file: str) -> str:
    (name,) = (name for name in _names(wheel) if name.endswith(f".dist-info/{file}"))
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode()


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in _names(wheel) if ".dist-info/" not in name}
    assert held - expected == set(), "in the wheel, not in the packages"
    assert expected - held == set(), "not in the wheel: packages or package-data in pyproject.toml"


def test_wheel_holds_no_other_top_level_name(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in _names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert all(f"{package}/py.typed" in _names(wheel) for package in PACKAGES)


def test_metadata(wheel: Path) -> None:
    metadata: Message = email.message_from_string(_metadata(wheel, "METADATA"))
    assert metadata["Name"] == "m3lung-node"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "m3lung = dicom_node.__main__:main" in _metadata(wheel, "entry_points.txt")
    assert "Apache License" in _metadata(wheel, "licenses/LICENSE")


def test_installed_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index"),
            *("--target", target, wheel),
        ],
        check=True,
    )
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import dicom_node, inference, training, dicom_node.settings\n"
        "for package in (dicom_node, inference, training):\n"
        "    assert package.__file__.startswith(sys.argv[1]), package.__file__\n"
        "from dicom_node.cli import main\n"
        "sys.argv[1:] = ['--help']\n"
        "main()\n"
    )
    # -I: neither the checkout nor PYTHONPATH is on the path.
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(target)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "analyze" in done.stdout
    assert "serve" in done.stdout


def test_constraints_name_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    names = [pin.partition("==")[0].lower().replace("_", "-") for pin in pins]
    assert all(pin.count("==") == 1 and " " not in pin and "/" not in pin for pin in pins)
    assert names == sorted(set(names))
    # A pair that imports together; other combinations do not.
    assert {"torch==2.15.0", "torchvision==0.29.2"} <= set(pins)
