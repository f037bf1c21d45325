"""The Store Instances Response, in DICOM JSON (PS3.18 §10.5.3, Annex F, Table I.2-1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dicom_node.reception.status import SUCCESS
from dicom_node.stow.body import PartAnswer

__all__ = ["DICOM_JSON", "encode_response", "http_status"]

DICOM_JSON = "application/dicom+json"
_OUT_OF_RESOURCES = 0xA700


def http_status(answers: Sequence[PartAnswer]) -> int:
    """Return the status of a request that was read to its end (PS3.18 Table 10.5.3-1).

    200: all are stored. 202: some are. 409: none is, for what is wrong with them. 503: none is,
    for want of room, so that they may come again. 400: there was none.
    """
    if not answers:
        return 400
    failed = [answer for answer in answers if answer.status != SUCCESS]
    if not failed:
        return 200
    if len(failed) < len(answers):
        return 202
    return 503 if all(answer.status == _OUT_OF_RESOURCES for answer in failed) else 409


def encode_response(answers: Sequence[PartAnswer]) -> bytes:
    """Return the dataset: what is stored, what is not and why."""
    stored = [_item(answer) for answer in answers if answer.status == SUCCESS]
    refused = [answer for answer in answers if answer.status != SUCCESS]
    failed = [_item(answer) for answer in refused if answer.is_named]
    others = [_reason(answer) for answer in refused if not answer.is_named]
    # Retrieve URL (0008,1190), type 2: nothing is given out here.
    dataset: dict[str, Any] = {"00081190": {"vr": "UR"}}
    for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", others)):
        if items:
            dataset[tag] = {"vr": "SQ", "Value": items}
    return json.dumps(dataset).encode("ascii")


def _item(answer: PartAnswer) -> dict[str, Any]:
    item = {
        "00081150": {"vr": "UI", "Value": [answer.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [answer.sop_instance_uid]},
    }
    return item | (_reason(answer) if answer.status != SUCCESS else {"00081190": {"vr": "UR"}})


def _reason(answer: PartAnswer) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [answer.status]}}
