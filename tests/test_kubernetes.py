"""The Kubernetes manifests: valid, guarded, and scaled by a query that holds."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from dicom_node.ledger import open_ledger
from dicom_node.ledger.leases import this_owner
from dicom_node.settings import load_settings
from support.ledger_life import Clock, LedgerLife
from support.peers import program

ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("overlays/trial", "overlays/production")
FOLDERS = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
PARTS = {"listen", "reconcile", "work", "deliver", "console", "metrics"}


# Debian's kubectl is too old for these files: no peer that `make peers` could bring.
needs_kubectl = pytest.mark.skipif(program("kubectl") is None, reason="kubectl is not installed")


def _name(path: Path) -> str:
    return path.relative_to(KUBERNETES).as_posix()


def manifests(folder: Path) -> list[dict[str, Any]]:
    """The resources that a folder's kustomization lists, as they stand in the files."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return [
        document
        for name in kustomization.get("resources", ())
        if (folder / name).is_file()
        for document in yaml.safe_load_all((folder / name).read_text())
    ]


def rendered(overlay: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(program("kubectl")), "kustomize", str(KUBERNETES / overlay)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def validate(document: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    if "keda.sh" not in document["apiVersion"]:  # not one of Kubernetes' own kinds
        version = kubernetes_validate.latest_version()
        kubernetes_validate.validate(document, version, strict=True)


def pod(document: dict[str, Any]) -> dict[str, Any]:
    return dict(document["spec"]["template"]["spec"])


def workloads(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in documents if item["kind"] in ("Deployment", "StatefulSet")]


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_a_kustomization_names_what_is_there(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    named = [*kustomization.get("resources", ()), *kustomization.get("components", ())]
    for generator in kustomization.get("configMapGenerator", ()):
        named += generator.get("files", ())
    assert named or kustomization["patches"]
    for name in named:
        target = folder / name
        assert target.is_file() or (target / "kustomization.yaml").is_file(), name
    listed = {(folder / name).name for name in named}
    assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} <= listed


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_every_manifest_is_valid(folder: Path) -> None:
    for document in manifests(folder):
        validate(document)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_and_refers_to_what_it_holds(overlay: str) -> None:
    documents = rendered(overlay)
    names: dict[str, set[str]] = {}
    for document in documents:
        validate(document)
        names.setdefault(document["kind"], set()).add(document["metadata"]["name"])
    for item in workloads(documents):
        spec = pod(item)
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names["ConfigMap"]
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim in names["PersistentVolumeClaim"]
        for container in spec["containers"]:
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in names["ConfigMap"]
                else:  # tokens, where a site has some
                    assert source["secretRef"] == {"name": "m3lung-credentials", "optional": True}
    selectors = {
        tuple(item["spec"]["selector"].items()) for item in documents if item["kind"] == "Service"
    }
    labels = [item["spec"]["template"]["metadata"]["labels"] for item in workloads(documents)]
    for selector in selectors:
        assert any(set(selector) <= set(found.items()) for found in labels)


@needs_kubectl
def test_the_overlays_differ_as_they_say() -> None:
    trial, production = (
        {(item["kind"], item["metadata"]["name"]): item for item in rendered(overlay)}
        for overlay in OVERLAYS
    )
    assert {("StatefulSet", "database"), ("StatefulSet", "broker")} <= trial.keys()
    assert not {kind for kind, _ in production} & {"StatefulSet"}
    [worker] = pod(production["Deployment", "worker"])["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "M3LUNG_ANALYSIS__DEVICE", "value": "cuda"} in worker["env"]
    assert {"M3LUNG_LEDGER__URL", "M3LUNG_BROKER__URL"} <= {item["name"] for item in worker["env"]}
    assert "replicas" not in production["Deployment", "worker"]["spec"]  # KEDA's to say
    scaled = production["ScaledObject", "worker"]["spec"]
    assert scaled["scaleTargetRef"] == {"name": "worker"}


def everything() -> list[dict[str, Any]]:
    return [document for folder in FOLDERS for document in manifests(folder)]


def test_pods_hold_to_the_restricted_profile() -> None:
    [namespace] = [item for item in everything() if item["kind"] == "Namespace"]
    label = "pod-security.kubernetes.io/enforce"
    assert namespace["metadata"]["labels"][label] == "restricted"
    for item in workloads(everything()):
        spec = pod(item)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()


def test_parts_run_verbs_with_variables_that_settings_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = manifests(KUBERNETES / "base")
    parts = [item for item in workloads(base) if "m3lung" in str(pod(item)["containers"])]
    assert {
        container["args"][0] for item in parts for container in pod(item)["containers"]
    } == PARTS
    for item in parts:
        # A Service called m3lung would otherwise hand M3LUNG_PORT and the like to every pod.
        assert pod(item)["enableServiceLinks"] is False
    kustomization = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    for generator in kustomization["configMapGenerator"]:
        for literal in generator.get("literals", ()):
            monkeypatch.setenv(*literal.split("=", 1))
    monkeypatch.delenv("M3LUNG_CONFIG")
    monkeypatch.setenv("M3LUNG_LEDGER__URL", "postgresql+psycopg://m3lung:secret@database/m3lung")
    for document in sorted(KUBERNETES.rglob("node.toml")):
        settings = load_settings(document)
        assert settings.root == Path("/var/lib/m3lung")
        assert settings.metrics.host == settings.console.host == "0.0.0.0"


def test_nothing_is_reached_unless_a_policy_says_so() -> None:
    policies = [item for item in everything() if item["kind"] == "NetworkPolicy"]
    [deny] = [item for item in policies if item["spec"]["podSelector"] == {}]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny["spec"].keys()
    opened = {
        port["port"]
        for item in policies
        for rule in item["spec"].get("ingress", ())
        for port in rule["ports"]
    }
    listened = {
        port["containerPort"]
        for item in workloads(everything())
        for container in pod(item)["containers"]
        for port in container.get("ports", ())
    }
    assert opened == listened


def test_no_secret_stands_in_a_manifest() -> None:
    text = "".join(path.read_text() for path in KUBERNETES.rglob("*.yaml"))
    assert "kind: Secret" not in text
    keys = set(re.findall(r"name: m3lung-secrets, key: ([\w-]+)", text))
    page = (ROOT / "deploy" / "README.md").read_text()
    assert {key for key in keys if f"--from-literal={key}=" not in page} == set()


@pytest.mark.peer("postgresql")
def test_keda_counts_what_workers_are_for(postgresql_url: str) -> None:
    [scaled] = [item for item in everything() if item["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    query = sa.text(trigger["metadata"]["query"])

    def count() -> int:
        with ledger.database.read() as connection:
            found = connection.execute(query).one()
        assert isinstance(found[0], int)
        return found[0]

    with open_ledger(postgresql_url) as ledger:
        assert count() == 0
        life = LedgerLife(ledger)
        life.set_aside("no axial images", skipped=False)
        first, second = life.selected(), life.selected()
        assert count() == 2  # ready
        assert ledger.analyses.claim(first, this_owner(), 60) is not None
        assert count() == 2  # one of them is being read
        life.failed(1, most=2)
        with ledger.database.write() as connection:
            connection.execute(
                sa.text("UPDATE analyses SET ready_at = ready_at + 3600 WHERE id = :id"),
                {"id": second},
            )
        ready = sa.text(
            "SELECT count(*) FROM analyses WHERE state IN ('waiting', 'running') "
            "AND (state = 'running' OR ready_at <= :now)"
        )
        with ledger.database.read() as connection:
            expected = connection.scalar(ready, {"now": Clock().now + 1e9})
        assert expected is not None
        # What waits for a later time needs no worker now.
        assert count() < expected
