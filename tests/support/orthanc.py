"""An Orthanc of one test: a real PACS in a temporary directory."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.peers import program
from support.ports import free_port
from support.server import Server

__all__ = ["Orthanc"]

_DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# Whatever proxy the environment names, the PACS is on this machine.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Orthanc(Server):
    """Orthanc on free ports, without authentication.

    It refuses associations for another called AE title, keeps the first of two instances with the
    same UID, answers storage commitment, and serves DICOMweb under ``/dicom-web`` where the plugin
    is installed.

    Parameters
    ----------
    directory : Path
        Storage, index, configuration and log.
    modalities : mapping of str to (ae_title, host, port), optional
        More may follow while it runs: :meth:`set_modality`.
    options : dict, optional
        Further entries of Orthanc's configuration.

    Attributes
    ----------
    ae_title, dicom_port, http_port, url
    """

    ae_title = "ORTHANC"

    def __init__(
        self,
        directory: Path,
        *,
        modalities: dict[str, tuple[str, str, int]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.dicom_port = free_port()
        self.http_port = free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.has_dicomweb = _DICOMWEB.exists()
        directory.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "m3lung-node test",
            "StorageDirectory": str(directory / "storage"),
            "IndexDirectory": str(directory / "storage"),
            "Plugins": [str(_DICOMWEB)] if self.has_dicomweb else [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomModalities": {name: list(peer) for name, peer in (modalities or {}).items()},
            "OverwriteInstances": False,
            "StableAge": 1,
            "StorageCommitmentReportsSize": 100,
            **(options or {}),
        }
        document = directory / "orthanc.json"
        document.write_text(json.dumps(configuration, indent=1))
        super().__init__(
            [program("Orthanc") or "Orthanc", str(document)],
            log=directory / "orthanc.log",
            ready=self._wait,
        )

    # REST -----------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """Return the decoded JSON of ``GET path``."""
        return json.loads(self._request("GET", path))

    def post(self, path: str, body: Any) -> Any:
        """Return the decoded JSON answer of ``POST path``."""
        return json.loads(self._request("POST", path, json.dumps(body).encode()))

    def set_modality(self, name: str, ae_title: str, port: int, host: str = "127.0.0.1") -> None:
        """Make a DICOM peer known, from now on."""
        body = json.dumps({"AET": ae_title, "Host": host, "Port": port}).encode()
        self._request("PUT", f"/modalities/{name}", body)

    def send(self, modality: str, resources: Iterable[str]) -> None:
        """C-STORE the resources (Orthanc ids of patients, studies, series, instances) to a peer."""
        self.post(f"/modalities/{modality}/store", list(resources))

    def upload(self, content: bytes) -> str:
        """Store one DICOM file by REST; return its Orthanc id."""
        return str(json.loads(self._request("POST", "/instances", content))["ID"])

    def delete(self, instance: str) -> None:
        """Delete an instance by its Orthanc id."""
        self._request("DELETE", f"/instances/{instance}")

    # What it holds --------------------------------------------------------------------------------

    def instance_count(self) -> int:
        """Number of instances in the archive."""
        return int(self.get("/statistics")["CountInstances"])

    def instances(
        self, *, sop_class_uid: str | None = None, series: str | None = None
    ) -> list[str]:
        """Return the Orthanc ids of all instances, or those of a SOP class or SeriesInstanceUID."""
        query: dict[str, str] = {}
        if series is not None:
            query["SeriesInstanceUID"] = series
        found = self.post("/tools/find", {"Level": "Instance", "Query": query})
        if sop_class_uid is None:
            return sorted(found)
        return sorted(
            instance
            for instance in found
            if self._request("GET", f"/instances/{instance}/metadata/SopClassUid").decode()
            == sop_class_uid
        )

    def by_sop_class(self) -> dict[str, list[str]]:
        """Return the Orthanc ids of the instances by SOPClassUID."""
        held: dict[str, list[str]] = {}
        for instance in self.instances():
            uid = self._request("GET", f"/instances/{instance}/metadata/SopClassUid").decode()
            held.setdefault(uid, []).append(instance)
        return held

    def lookup(self, uid: str) -> list[str]:
        """Return the Orthanc ids of the study, series or instance with this UID (empty: none)."""
        return [
            found["ID"]
            for found in json.loads(self._request("POST", "/tools/lookup", uid.encode()))
        ]

    def download(self, instance: str) -> bytes:
        """Return the DICOM file of an Orthanc instance id, as the archive keeps it."""
        return self._request("GET", f"/instances/{instance}/file")

    def sop_instance_uids(self) -> set[str]:
        """SOPInstanceUIDs of everything in the archive."""
        answer = self.get("/instances?expand")
        return {found["MainDicomTags"]["SOPInstanceUID"] for found in answer}

    def wait_for_count(self, count: int, *, timeout_s: float = 60.0) -> None:
        """Return when the archive holds at least `count` instances.

        Raises
        ------
        TimeoutError
            It does not after `timeout_s`; the text says how many there are.
        """
        deadline = time.monotonic() + timeout_s
        while (held := self.instance_count()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Orthanc holds {held} instances after {timeout_s:g} s, not {count}"
                )
            time.sleep(0.1)

    # Inside ---------------------------------------------------------------------------------------

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        with _HTTP.open(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def _wait(self) -> None:
        deadline = time.monotonic() + 30.0
        while True:
            try:
                self.get("/system")
            except (urllib.error.URLError, ConnectionError) as error:
                if time.monotonic() > deadline or not self.is_running:
                    raise TimeoutError("Orthanc does not answer") from error
                time.sleep(0.05)
            else:
                return
