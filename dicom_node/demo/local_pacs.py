"""The PACS of the demo: Orthanc where it is installed, else the project's own simulated one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_node.demo.child import Child, ChildFailed, find_program, free_port, wait_for_echo
from dicom_node.errors import ConfigurationError

__all__ = ["CALLING_AE_TITLE", "LocalPacs", "PacsKind", "start_pacs"]

PacsKind = Literal["auto", "orthanc", "simulated"]

CALLING_AE_TITLE = "SCANNER"
"""How the demo itself introduces itself: it stands in for scanner and workstation."""

_READY_S = 60.0
_VIEWERS = ("libOrthancDicomWeb.so", "libStoneWebViewer.so", "libOrthancWebViewer.so")
_PLUGINS = Path("/usr/share/orthanc/plugins")


@dataclass(frozen=True, slots=True)
class LocalPacs:
    """A running PACS on the loopback interface.

    Attributes
    ----------
    name : str
        What it is, for people.
    ae_title : str
    port : int
        DICOM.
    url : str
        Its web page, empty if it has none.
    child : Child
    """

    name: str
    ae_title: str
    port: int
    url: str
    child: Child


@contextmanager
def start_pacs(
    kind: PacsKind, folder: Path, node_ae_title: str, node_port: int
) -> Iterator[LocalPacs]:
    """Start a PACS that keeps everything under `folder`; end it on leaving.

    Parameters
    ----------
    kind : {"auto", "orthanc", "simulated"}
        "auto": Orthanc when installed.
    node_ae_title, node_port
        The node, which the PACS is told about.

    Raises
    ------
    ConfigurationError
        Orthanc is asked for and not installed.
    ChildFailed
        It does not come up.
    """
    program = find_program("Orthanc")
    if kind == "orthanc" and program is None:
        raise ConfigurationError("Orthanc is not installed; try --pacs simulated")
    folder.mkdir(parents=True, exist_ok=True)
    if kind != "simulated" and program is not None:
        pacs = _orthanc(program, folder, node_ae_title, node_port)
    else:
        pacs = _simulated(folder)
    with pacs.child as child:
        try:
            wait_for_echo(child, CALLING_AE_TITLE, pacs.ae_title, pacs.port, _READY_S)
        except ChildFailed as error:
            raise ChildFailed(f"{error}\n{child.tail()}") from error
        yield pacs


def _orthanc(program: str, folder: Path, node_ae_title: str, node_port: int) -> LocalPacs:
    """Orthanc as it comes, but on free loopback ports, and acquainted with the node and us."""
    port, http_port = free_port(), free_port()
    storage = str(folder / "storage")
    document = {
        "Name": "m3lung demo",
        "StorageDirectory": storage,
        "IndexDirectory": storage,
        "Plugins": [str(_PLUGINS / name) for name in _VIEWERS if (_PLUGINS / name).is_file()],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        # Strangers may store and echo; only who is listed here may also find and get.
        "DicomModalities": {
            "m3lung": [node_ae_title, "127.0.0.1", node_port],
            "scanner": [CALLING_AE_TITLE, "127.0.0.1", node_port],
        },
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(document, indent=2), encoding="utf-8")
    child = Child("Orthanc", [program, str(configuration)], folder / "orthanc.log")
    return LocalPacs("Orthanc", "ORTHANC", port, f"http://127.0.0.1:{http_port}/", child)


def _simulated(folder: Path) -> LocalPacs:
    port = free_port()
    command = [
        *(sys.executable, "-m", "dicom_node.simulated_pacs"),
        *("--port", str(port), "--folder", str(folder / "storage"), "--ae-title", "SIMPACS"),
    ]
    child = Child("the simulated PACS", command, folder / "simulated-pacs.log")
    return LocalPacs("simulated PACS", "SIMPACS", port, "", child)
