"""Deployment files name verbs, files and settings that exist; the node image needs no torch."""

from __future__ import annotations

import configparser
import http.server
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node.settings import load_settings
from support.peers import program

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
CONTAINERFILES = sorted((DEPLOY / "containers").glob("Containerfile.*"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    import typer.main

    from dicom_node.cli.app import assemble

    command = typer.main.get_command(assemble())
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


def test_the_target_wants_every_part() -> None:
    text = (DEPLOY / "systemd" / "m3lung.target").read_text()
    assert set(re.findall(r"m3lung@(\w+)\.service", text)) == PARTS


@pytest.fixture
def installed_units(tmp_path: Path) -> Path:
    """The units, with a program in the place of the installed one."""
    for unit in (*UNITS, DEPLOY / "systemd" / "m3lung.target"):
        text = unit.read_text().replace("/opt/m3lung/bin/m3lung", str(shutil.which("true")))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@pytest.mark.peer("systemd")
@pytest.mark.parametrize("name", ["m3lung.service", "m3lung@listen.service", "m3lung.target"])
def test_systemd_finds_nothing_wrong_with_a_unit(installed_units: Path, name: str) -> None:
    if not (installed_units / name).exists():
        (installed_units / name).symlink_to(installed_units / "m3lung@.service")
    done = subprocess.run(
        [str(program("systemd-analyze")), "verify", "--man=no", installed_units / name],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "m3lung" in line]
    # Where no systemd runs there may be no targets to hang on to; the unit's own lines are read.
    assert [line for line in ours if "not found" not in line] == []


@pytest.mark.peer("systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_calls_a_unit_hardly_exposed(unit: Path, tmp_path: Path) -> None:
    place = tmp_path / "etc" / "systemd" / "system"
    place.mkdir(parents=True)
    shutil.copy(unit, place)
    done = subprocess.run(
        [
            *(str(program("systemd-analyze")), "security", "--offline=true", "--no-pager"),
            *(f"--root={tmp_path}", "--threshold=25", unit.name),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    assert "Overall exposure level" in done.stdout


@pytest.mark.peer("systemd")
def test_user_and_folders_are_made(tmp_path: Path) -> None:
    for kind, folder in (("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")):
        place = tmp_path / "usr" / "lib" / folder
        place.mkdir(parents=True)
        shutil.copy(DEPLOY / "systemd" / f"m3lung.{kind}.conf", place / "m3lung.conf")
    (tmp_path / "etc").mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root gives files to others")
    for command in (
        [str(program("systemd-sysusers")), f"--root={tmp_path}"],
        [str(program("systemd-tmpfiles")), f"--root={tmp_path}", "--create"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
    assert "m3lung:x:" in (tmp_path / "etc" / "passwd").read_text()
    assert (tmp_path / "etc" / "m3lung").stat().st_mode & 0o777 == 0o750


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(COMPOSE)["services"])


PARTS = {"listen", "reconcile", "deliver", "console", "metrics", "work"}


def test_compose_keeps_to_its_schema() -> None:
    pytest.importorskip("check_jsonschema")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_parts_run_verbs_that_exist(
    services: dict[str, dict[str, Any]], verbs: set[str]
) -> None:
    assert services.keys() & verbs >= PARTS
    for name in PARTS:
        assert services[name]["command"] == [name]
        assert "profiles" not in services[name]
        assert services[name]["user"] == "10001:10001"
        assert services[name]["image"] == ("m3lung-worker" if name == "work" else "m3lung-node")
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert services["work-gpu"]["profiles"] == ["gpu"]
    assert services["work-gpu"]["environment"]["M3LUNG_ANALYSIS__DEVICE"] == "cuda"
    assert "11112" in services["listen"]["ports"][0]
    assert services["listen"]["ports"][1].endswith(":2762")
    # Tokens and images are in clear on it: a proxy with TLS on this machine takes them in.
    assert services["listen"]["ports"][2] == "127.0.0.1:${M3LUNG_STOW_PORT:-8104}:8104"


def test_compose_guards_every_service(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].split(":")[0] not in ("0", "root"), name
        assert "memory" in service["deploy"]["resources"]["limits"], name
        if name != "pacs":  # a demonstration that forgets
            assert "healthcheck" in service, name
    # Ledger and broker are on the inner network alone, and nothing but DICOM is open to others.
    compose = yaml.safe_load(COMPOSE)
    assert compose["networks"]["inside"] == {"internal": True}
    for name in ("database", "broker"):
        assert services[name]["networks"] == ["inside"]
        assert "ports" not in services[name]
    for name, service in services.items():
        if name != "listen":
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_compose_files_and_variables_are_there(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./") and source != "./deploy/etc":
                assert (ROOT / source).exists(), source
    for name, value in services["listen"]["environment"].items():
        if name != "M3LUNG_CONFIG":
            monkeypatch.setenv(name, re.sub(r"\$\{[^}]*\}", "secret", value))
    for document in (DEPLOY / "node.example.toml", DEPLOY / "demo" / "node.toml"):
        settings = load_settings(document)
        assert settings.listener.port == 11112
        assert settings.broker.url == "redis://:secret@broker:6379/0"
    # No password stands in the file, and none is optional.
    assert set(re.findall(r"\$\{(\w+PASSWORD)([^}]*)\}", COMPOSE)) == {
        ("M3LUNG_DATABASE_PASSWORD", ":?see deploy/README.md"),
        ("M3LUNG_BROKER_PASSWORD", ":?see deploy/README.md"),
    }
    secrets = yaml.safe_load(COMPOSE)["secrets"]
    assert all(set(secret) == {"file"} for secret in secrets.values())


def test_monitoring_is_provisioned_from_this_repository(
    services: dict[str, dict[str, Any]],
) -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())
    [job] = scraped["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["metrics:9464"]}]
    assert scraped["rule_files"] == ["alerts.yml"]
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "m3lung.yml").read_text())[
        "providers"
    ]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/m3lung.json" in mounted


def _finds(ok: bool) -> bytes:
    found = {"name": "reconcile", "ok": ok, "words": "sweeps"}
    return json.dumps({"ok": ok, "findings": [found]}).encode()


@pytest.mark.parametrize(
    ("words", "body", "status", "expected"),
    [
        (["reconcile"], _finds(True), 200, 0),
        (["reconcile"], _finds(False), 503, 1),
        (["analysis"], _finds(True), 200, 1),
        ([], _finds(False), 503, 0),  # the exporter itself answers
        (["reconcile"], b"a page of somebody else", 200, 1),
    ],
)
def test_health_is_what_the_exporter_finds(
    words: list[str], body: bytes, status: int, expected: int
) -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/healthz"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.handle_request).start()
        done = subprocess.run(
            [
                *(sys.executable, DEPLOY / "containers" / "healthy.py", *words),
                *("--url", f"http://127.0.0.1:{server.server_port}"),
            ],
            check=False,
            capture_output=True,
        )
    assert done.returncode == expected, done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install .[test])")
    done = subprocess.run([hadolint, *CONTAINERFILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


def _needed(*options: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, DEPLOY / "containers" / "requirements.py", *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split("\n")[:-1]


def test_node_image_installs_no_torch_by_the_back_door() -> None:
    pending = [re.split(r"[^\w.-]", line)[0] for line in _needed("--without-model")]
    assert len(pending) == len(_needed()) - 6
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


@pytest.mark.parametrize("verb", ["listen", "deliver", "reconcile", "console", "metrics"])
def test_node_verbs_need_no_torch(verb: str) -> None:
    script = (
        "import sys\n"
        "absent = 'torch torchvision safetensors openvino tensorboard matplotlib'.split()\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "import dicom_node.listener, dicom_node.reconciler, dicom_node.delivery.worker\n"
        "import dicom_node.console.server, dicom_node.metrics\n"
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
