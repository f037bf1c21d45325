"""Deployment files name verbs, files and settings that exist; the node image needs no torch."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
CONTAINERFILES = sorted((DEPLOY / "containers").glob("Containerfile.*"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    import typer.main

    from dicom_node.cli.app import app

    command = typer.main.get_command(app)
    return set(command.commands)  # type: ignore[attr-defined]


def test_example_configuration_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(DEPLOY / "node.example.toml")
    assert settings.peer("pacs").is_source
    assert settings.peer("pacs").query
    assert not settings.peer("viewer").is_source
    assert settings.root == Path("/var/lib/m3lung")

    monkeypatch.setenv("M3LUNG_LEDGER__URL", "postgresql+psycopg://m3lung:secret@database/m3lung")
    overridden = load_settings(DEPLOY / "node.example.toml")
    assert overridden.ledger_url.startswith("postgresql+psycopg://")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_start_verbs_that_exist(unit: Path, verbs: set[str]) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    service = parser["Service"]
    verb = service["ExecStart"].split()[1]
    assert verb in verbs | {"%i"}
    assert service["User"] == "m3lung"
    assert service["ProtectSystem"] == "strict"
    assert set(re.findall(r"m3lung@(\w+)", unit.read_text())) <= verbs


def test_compose_parts_run_verbs_that_exist(verbs: set[str]) -> None:
    parts = re.findall(r"^  (\w+):\n    <<: \*part\n((?:    .*\n|\n)+)", COMPOSE, re.MULTILINE)
    assert {name for name, _ in parts} == {"listen", "reconcile", "deliver", "work"}
    for name, body in parts:
        assert f"command: [{name}]" in body
        assert name in verbs
    for containerfile in re.findall(r"dockerfile: (\S+?)}", COMPOSE):
        assert (ROOT / containerfile).is_file()
    assert 'user: "10001:10001"' in COMPOSE
    assert "read_only: true" in COMPOSE
    # No password stands in the file, and none is optional.
    assert set(re.findall(r"\$\{(\w+PASSWORD)([^}]*)\}", COMPOSE)) == {
        ("M3LUNG_DATABASE_PASSWORD", ":?see deploy/README.md"),
        ("M3LUNG_BROKER_PASSWORD", ":?see deploy/README.md"),
    }


@pytest.mark.parametrize("containerfile", CONTAINERFILES, ids=lambda path: path.name)
def test_containerfiles_copy_what_is_there_and_run_verbs(
    containerfile: Path, verbs: set[str]
) -> None:
    text = containerfile.read_text()
    shipped = (ROOT / ".dockerignore").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert re.search(rf"^!{re.escape(source)}(/|$)", shipped, re.MULTILINE)
    (verb,) = re.findall(r'^CMD \["(\w+)"\]$', text, re.MULTILINE)
    assert verb in verbs
    # The last user is not root.
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "10001:10001"


def _needed(*without: str) -> list[str]:
    options = [part for name in without for part in ("--without", name)]
    done = subprocess.run(
        [sys.executable, DEPLOY / "containers" / "requirements.py", *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split("\n")[:-1]


def test_node_image_installs_no_torch_by_the_back_door() -> None:
    pending = [re.split(r"[^\w.-]", line)[0] for line in _needed("torch", "torchvision")]
    assert len(pending) == len(_needed()) - 2
    seen: set[str] = set()
    while pending:
        name = pending.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        pending += [
            re.split(r"[^\w.-]", line)[0]
            for line in requires
            if "extra ==" not in line and "extra==" not in line
        ]
    assert {"pydicom", "celery", "numpy"} <= seen
    assert not {name for name in seen if name.startswith(("torch", "nvidia", "triton"))}


@pytest.mark.parametrize("verb", ["listen", "deliver", "reconcile"])
def test_node_verbs_need_no_torch(verb: str) -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "import dicom_node.listener, dicom_node.reconciler, dicom_node.delivery.worker\n"
        "from dicom_node.cli import main\n"
        "sys.argv = ['m3lung', *sys.argv[1:], '--help']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, verb],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
