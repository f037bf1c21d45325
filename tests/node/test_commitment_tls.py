"""Storage commitment over TLS: who reports has to show the certificate of the PACS."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.audit import records
from dicom_node.settings import TLSSettings
from dicom_node.simulated_pacs import SimulatedPacs, behaviour_from
from dicom_node.tls import server_context
from dicom_node.tls.certificates import make_authority, make_certificate
from support.shipments import DeliveringNode


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    make_authority(folder)
    for name in ("node", "pacs", "other"):
        make_certificate(folder, name, ["127.0.0.1"], authority=folder)
    return folder


def files(papers: Path, name: str) -> dict[str, str]:
    found = {"certificate": f"{name}.pem", "key": f"{name}.key", "ca": "ca.pem"}
    return {field: str(papers / file) for field, file in found.items()}


class Pair:
    """A node and a PACS over TLS."""

    def __init__(self, folder: Path, papers: Path, orders: str) -> None:
        self.papers = papers
        context = server_context(TLSSettings.model_validate(files(papers, "pacs")))
        self.pacs = SimulatedPacs(
            folder / "pacs", behaviour=behaviour_from(orders), ssl_context=context
        )
        self.node = DeliveringNode(
            folder / "node", tls={**files(papers, "node"), "port": 0}, commitment={"linger_s": 3.0}
        )
        self.node.configure(
            {
                "name": "pacs",
                "ae_title": "SIMPACS",
                "port": self.pacs.port,
                "roles": ["destination"],
                "commitment": "request",
                "compress": "none",
                "tls": True,
                "certificate_name": "pacs",
            }
        )

    def close(self) -> None:
        self.pacs.stop()
        self.node.close()

    def report(self, certificate: str | None) -> Any:
        """Associate as the PACS would to report: over TLS, or in the clear."""
        ae = AE("SIMPACS")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        port, tls = self.node.port, None
        if certificate is not None:
            port = int((self.node.directory / "state" / "listener-tls.port").read_text())
            context = ssl.create_default_context(cafile=str(self.papers / "ca.pem"))
            context.load_cert_chain(
                self.papers / f"{certificate}.pem", self.papers / f"{certificate}.key"
            )
            tls = (context, "127.0.0.1")
        return ae.associate("127.0.0.1", port, ae_title="M3LUNG", ext_neg=[role], tls_args=tls)

    def audited(self) -> list[str]:
        """What the trail says of commitment reports."""
        events = [one["EventIdentification"] for one in records(self.node.source().root / "audit")]
        return [
            event["EventOutcomeDescription"]
            for event in events
            if event["EventID"]["csd-code"] == "commitment"
        ]


@pytest.fixture
def pair(tmp_path: Path, papers: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(tmp_path, papers, getattr(request, "param", ""))
    yield made
    made.close()


def test_the_report_on_the_association_that_asked(pair: Pair) -> None:
    pair.node.analysed(3)
    pair.node.ended(committed=3)
    [report] = pair.pacs.commitment.reports
    assert (report.via, report.committed, report.status) == ("same", 3, 0)
    assert pair.audited() == ["3 objects committed, 0 failed"]


@pytest.mark.parametrize("pair", ["commit-silent"], indirect=True)
def test_the_report_on_a_new_association_needs_the_pacs_certificate(pair: Pair) -> None:
    uids = pair.node.analysed(2)
    pair.node.configure(commitment={"linger_s": 0.0})
    pair.node.deliver()
    assert pair.node.states() == {"commit_requested": 2}
    [request] = pair.pacs.commitment.requests
    pair.node.listener.start()
    tls_port = pair.node.directory / "state" / "listener-tls.port"
    deadline = time.monotonic() + 10
    while not tls_port.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    report = Dataset()
    report.TransactionUID = request.transaction_uid
    report.ReferencedSOPSequence = []
    for sop_class_uid, uid in request.references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, uid
        report.ReferencedSOPSequence.append(item)
    for certificate in (None, "other"):
        stranger = pair.report(certificate)
        assert stranger.is_rejected, certificate
        assert stranger.acceptor.primitive.diagnostic == 0x03  # calling AE title not recognised
    assert pair.node.states() == {"commit_requested": 2}
    association = pair.report("pacs")
    assert association.is_established
    answer, _ = association.send_n_event_report(
        report, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    association.release()
    assert answer.Status == 0
    assert pair.node.states() == {"committed": len(uids)}
    assert pair.audited() == ["2 objects committed, 0 failed"]
