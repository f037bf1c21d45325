"""Senders that know which instance was acknowledged, whatever becomes of the association."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from support.peers import program

__all__ = ["SENDERS", "send_with_pynetdicom", "send_with_storescu"]

_CT = "1.2.840.10008.5.1.4.1.1.2"


def send_with_storescu(files: Sequence[Path], port: int) -> list[Path]:
    """Send with DCMTK; return the files that were answered with success."""
    command = [
        str(program("storescu")), "-v", "-aet", "STORESCU", "-aec", "M3LUNG", "-to", "10", "-td",
        "30", "127.0.0.1", str(port), *map(str, files),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    acknowledged, sending = [], None
    for line in (done.stdout + done.stderr).splitlines():
        if found := re.search(r"Sending file: (.+)$", line):
            sending = Path(found[1].strip())
        elif "Received Store Response (Success" in line and sending is not None:
            acknowledged.append(sending)
            sending = None
    return acknowledged


def send_with_pynetdicom(files: Sequence[Path], port: int) -> list[Path]:
    """Send with pynetdicom; return the files that were answered with success."""
    entity = AE("STORESCU")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(_CT, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="M3LUNG")
    acknowledged: list[Path] = []
    for path in files:
        if not association.is_established:
            return acknowledged
        try:
            answer = association.send_c_store(dcmread(path))
        except (RuntimeError, ValueError):  # the association went away in between
            return acknowledged
        if answer and answer.Status == 0x0000:
            acknowledged.append(path)
    association.release()
    return acknowledged


SENDERS = (send_with_storescu, send_with_pynetdicom)
