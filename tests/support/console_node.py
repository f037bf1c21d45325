"""A node as the console sees it: a ledger filled by its own functions, and a served console."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from dicom_node.console import passwords
from dicom_node.console.app import make_app
from dicom_node.domain import ObjectKind, StoredInstance
from dicom_node.header import InstanceHeader
from dicom_node.header_reader import read_instance_header
from dicom_node.ledger import Arrival, Ledger, NewObject, open_ledger
from dicom_node.ledger.console_users import ConsoleRole, ConsoleUsers
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.states import AnalysisEvent, DeliveryEvent
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.result_json import analyzed, write_document
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_results
from dicom_node.settings import SettingsSource
from inference.domain import Findings
from support.made_findings import MODEL, made_findings, made_volume
from support.other_systems import with_other_systems
from support.ports import free_port, wait_for_port
from support.synthetic_ct import synthetic_series

__all__ = ["PASSWORD", "ConsoleNode", "Filled", "ServedConsole", "csrf_of", "filled_node"]

PASSWORD = "correct horse battery"
_CT = "1.2.840.10008.5.1.4.1.1.2"
_SUMMARY = {"slices": True, "objects": True, "lesion": {"distribution": {"map"}}}


class ConsoleNode:
    """Configuration, ledger and files; every series is made by the functions that the node uses."""

    def __init__(self, directory: Path, ledger_url: str = "", **sections: dict[str, Any]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.config = directory / "node.toml"
        self.configure(ledger={"url": ledger_url}, **sections)
        self.source = SettingsSource(self.config)
        self.source().root.mkdir(parents=True, exist_ok=True)
        self.now = time.time()
        self.ledger: Ledger = open_ledger(self.source().ledger_url, clock=lambda: self.now)
        self.users = ConsoleUsers(self.ledger.database)
        self._count = 0

    def configure(self, **sections: dict[str, Any]) -> None:
        lines = [f'state_dir = "{self.directory / "state"}"']
        for name, fields in sections.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in fields.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def user(self, name: str, role: ConsoleRole) -> None:
        """Add a user with the password of all tests."""
        self.users.add(name, role, passwords.digest(PASSWORD))

    # -- one series at each stage -------------------------------------------------------------

    def received(
        self, images: int = 3, *, accession: str = "", patient: str = "", study: str = ""
    ) -> int:
        """Return the id of a series that still receives."""
        self._count += 1
        uid = f"2.25.7{self._count:06d}"
        headers = [
            InstanceHeader(
                sop_instance_uid=f"{uid}.{number}",
                sop_class_uid=_CT,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                study_instance_uid=study or f"2.25.8{self._count:06d}",
                series_instance_uid=uid,
                accession_number=accession or f"A{self._count:04d}",
                patient_id=patient or f"P{self._count:04d}",
                modality="CT",
                series_description=f"Thorax 1.0 Br40 #{self._count}",
            )
            for number in range(1, images + 1)
        ]
        stored = [
            StoredInstance(f"{self._count:032x}{n:032x}", Path("instances/00/none.dcm"), 10)
            for n in range(images)
        ]
        return self.arrived(headers, stored)

    def arrived(self, headers: Sequence[InstanceHeader], stored: Sequence[StoredInstance]) -> int:
        association = self.ledger.intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="10.0.0.7"
        )
        self.ledger.intake.record_instances(
            [
                Arrival(association, header, item)
                for header, item in zip(headers, stored, strict=True)
            ]
        )
        self.ledger.intake.close_association(association, outcome="released", ignored={})
        [found] = self.ledger.worklist.find(uid=headers[0].series_instance_uid)
        return found.series_id

    def completed(self, series_id: int, reason: str = "released_and_gap_free") -> int:
        """Close a series; return the id of its revision."""
        [revision] = [r for r in self.ledger.revisions.receiving(60) if r.series_id == series_id]
        assert self.ledger.revisions.close(revision, reason)
        [closed] = [r for r in self.ledger.revisions.completed() if r.series_id == series_id]
        return closed.revision_id

    def selected(self, **names: Any) -> tuple[int, int]:
        """Return (series, analysis) of a new series that waits for a worker."""
        series_id = self.received(**names)
        analysis = self.ledger.revisions.select(
            self.completed(series_id),
            {"sop_instance_uids": [], "statements": ["One was left out."]},
        )
        assert analysis is not None
        return series_id, analysis

    def skipped(self, reason: str = "The series is a localizer.", **names: Any) -> int:
        series_id = self.received(**names)
        assert self.ledger.revisions.skip(self.completed(series_id), reason)
        return series_id

    def analysing(self, **names: Any) -> int:
        series_id, analysis = self.selected(**names)
        claim = self.ledger.analyses.claim(analysis, this_owner(), 120)
        assert claim is not None
        self.ledger.analyses.progress(claim, 120, "slices", 40, 120)
        return series_id

    def quarantined(self, **names: Any) -> int:
        series_id, analysis = self.selected(**names)
        claim = self.ledger.analyses.claim(analysis, this_owner(), 120)
        assert claim is not None
        self.ledger.analyses.fail(claim, "the analysis failed unexpectedly (KeyError)", 1, 0)
        return series_id

    def rejected(self, reason: str, **names: Any) -> int:
        series_id, analysis = self.selected(**names)
        claim = self.ledger.analyses.claim(analysis, this_owner(), 120)
        assert claim is not None
        self.ledger.analyses.set_aside(claim, AnalysisEvent.REJECT, reason)
        return series_id

    def analysed(self, destination: str = "pacs", **names: Any) -> int:
        """Return a series with a small made-up result whose objects wait for `destination`."""
        series_id, analysis = self.selected(**names)
        claim = self.ledger.analyses.claim(analysis, this_owner(), 120)
        assert claim is not None
        self.ledger.analyses.finish(
            claim,
            result=_small_result(),
            objects=[_object(analysis, "report"), _object(analysis, "summary")],
            destinations={destination: list(ObjectKind)} if destination else {},
        )
        return series_id

    def sent(self, event: DeliveryEvent, error: str = "", destination: str = "pacs") -> None:
        """Let `event` happen to everything that waits for a destination."""
        for shipment_id in self.ledger.shipments.due(0.0):
            claim = self.ledger.shipments.claim(shipment_id, this_owner(), 60)
            if claim is None or claim.destination != destination:
                continue
            for pending in claim.pending:
                chosen = pending.candidates[0].object_id
                self.ledger.shipments.choose(claim, pending.delivery_id, chosen)
                self.ledger.shipments.record(
                    claim, pending.delivery_id, event, lease_s=60, error=error,
                    status=0x0000 if event is DeliveryEvent.ACCEPTED else 0xA700,
                )  # fmt: skip
            self.ledger.shipments.release(claim, retry_in_s=0.0)

    def read(
        self,
        *,
        slices: int = 24,
        matrix: int = 128,
        model: Any = MODEL,
        study: str = "study-1",
        study_date: str = "20200401",
        others: bool = False,
        change: Callable[[Findings], Findings] = lambda findings: findings,
    ) -> int:
        """Return a series with real files in the spool, real results and a whole result.json.

        Parameters
        ----------
        study, study_date : str
            Studies of one patient; each is compared with those of before.
        others : bool
            Whether M²UNet and JCS read it, too.
        change : callable
            What else the made findings should be.
        """
        settings = self.source()
        made = synthetic_series(
            self.directory / f"ct-{study}", slices=slices, matrix=matrix, lesion=True, study=study,
            study_date=study_date,
        )  # fmt: skip
        headers, stored = [], []
        for path in made.paths:
            header = read_instance_header(path)
            name = f"{study}-{path.name}"
            target = settings.spool_dir / "instances" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            headers.append(header.model_copy(update={"accession_number": "A-READ"}))
            digest = hashlib.sha256(name.encode()).hexdigest()
            stored.append(StoredInstance(digest, Path("instances", name), 10))
        series_id = self.arrived(headers, stored)
        self.now += 3.2
        analysis = self.ledger.revisions.select(
            self.completed(series_id),
            {"sop_instance_uids": [h.sop_instance_uid for h in headers], "statements": []},
        )
        assert analysis is not None
        self.now += 1.0
        claim = self.ledger.analyses.claim(analysis, this_owner(), 120)
        assert claim is not None
        folder = settings.results_dir / str(analysis) / str(claim.token)
        volume, source = made_volume(made.paths), SourceSeries.read(made.paths)
        findings = made_findings(volume, model=model)
        findings = change(with_other_systems(findings, volume) if others else findings)
        context = ResultContext(
            "1" * 64, "2" * 64, datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
            Completeness("the sender had finished", len(headers)), "0.1.0", "M3LUNG",
            earlier=self.ledger.earlier.than(analysis),
        )  # fmt: skip
        written = write_results(findings, volume, source, folder, ResultOptions(), context)
        document = analyzed(findings, source, context, written, banner="RESEARCH USE ONLY")
        write_document(document, folder / "result.json")
        self.now += 48.5
        self.ledger.analyses.finish(
            claim,
            result=document.model_dump(mode="json", exclude=_SUMMARY),
            objects=[
                NewObject(
                    ObjectKind(item.kind), item.slot, item.rank, item.sop_class_uid,
                    item.sop_instance_uid, item.series_instance_uid,
                    str((folder / item.path).relative_to(settings.results_dir)),
                    item.sha256, item.size_bytes,
                )
                for item in written
            ],
            destinations={"pacs": list(ObjectKind), "archive": [ObjectKind.REPORT]},
        )  # fmt: skip
        return series_id


@dataclass(frozen=True)
class Filled:
    """A node with one series at each stage; the fields are their ids, the oldest first."""

    node: ConsoleNode
    delivered: int
    failed_delivery: int
    quarantined: int
    skipped: int
    queued: int
    analysing: int
    delivering: int
    receiving: int


def filled_node(directory: Path, ledger_url: str = "") -> Filled:
    """Return a node with one series at each stage, an administrator ada and a viewer vera."""
    node = ConsoleNode(directory, ledger_url)
    node.user("ada", ConsoleRole.ADMIN)
    node.user("vera", ConsoleRole.VIEWER)

    def later(series_id: int) -> int:
        node.now += 60
        return series_id

    node.now -= 3600
    delivered = later(node.analysed())
    node.sent(DeliveryEvent.ACCEPTED)
    failed = later(node.analysed(accession="ACC-4711", patient="PAT-0815"))
    node.sent(DeliveryEvent.PERMANENT, "the called AE title is not recognised")
    return Filled(
        node,
        delivered,
        failed,
        quarantined=later(node.quarantined()),
        skipped=later(node.skipped()),
        queued=later(node.selected()[0]),
        analysing=later(node.analysing()),
        delivering=later(node.analysed()),
        receiving=later(node.received(accession="ACC-NEW")),
    )


class ServedConsole:
    """A console behind a real port, in a thread of the test."""

    def __init__(self, node: ConsoleNode, base: str = "") -> None:
        self.node = node
        self.port = free_port()
        self.app = make_app(node.source, node.ledger)
        self.url = f"http://127.0.0.1:{self.port}{base}"
        config = uvicorn.Config(
            self.app, host="127.0.0.1", port=self.port, log_config=None, access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> ServedConsole:
        self._thread.start()
        wait_for_port(self.port, timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    def client(self, **headers: str) -> httpx.Client:
        """Return a browser that has not logged in."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @contextmanager
    def log_in(self, name: str, password: str = PASSWORD) -> Iterator[httpx.Client]:
        """Yield a browser that has."""
        with self.client() as client:
            token = csrf_of(client.get("/login").text)
            answer = client.post("/login", data={"csrf": token, "name": name, "password": password})
            assert answer.status_code == 303, answer.text
            yield client


def csrf_of(page: str) -> str:
    """Return the token that the page's forms carry."""
    found = re.search(r'"X-CSRF-Token": "([^"]+)"', page)
    assert found is not None, page
    return found[1]


def _small_result() -> dict[str, Any]:
    return {
        "disposition": "analyzed",
        "patient": {
            "probabilities": {"healthy": 0.08, "covid19": 0.71, "h1n1": 0.06, "cap": 0.15},
            "predicted": "covid19",
        },
        "nonparametric": None,
        "lesion": {
            "percent_of_lung": 2.3, "lung_ml": 4000.0, "lesion_ml": 92.0, "slices": 12,
            "threshold": 0.5, "distribution": None,
        },
        "model": {
            "name": "M3Lung-Sys", "version": "0.1.0", "sha256": MODEL.sha256, "trained": True,
            "training": "site",
        },
        "quality": [],
    }  # fmt: skip


def _object(analysis: int, kind: str) -> NewObject:
    return NewObject(
        ObjectKind(kind), kind, 0, "1.2.840.10008.5.1.4.1.1.88.34", f"2.25.5{analysis}.{len(kind)}",
        f"2.25.6{analysis}", f"{analysis}/1/{kind}.dcm", "0" * 64, 1000,
    )  # fmt: skip


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
