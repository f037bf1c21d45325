"""What a DICOMweb peer lists of a series: QIDO-RS as user agent (PS3.18 §10.6)."""

from __future__ import annotations

import json
from typing import Any

from dicom_node.delivery.web_client import WebClient
from dicom_node.errors import TransientDelivery
from dicom_node.settings import NodeSettings, Peer
from dicom_node.source_query import QueryFailed

__all__ = ["NO_SUCH_STUDY", "list_by_qido"]

NO_SUCH_STUDY = "2.25.0"
"""No study has this UID: to ask whether a question is answered at all."""

_SOP_INSTANCE_UID = "00080018"
_PAGE = 500  # instances of one answer
_MOST_PAGES = 40  # more is no series
_NOTHING = (204, 404)
_NOT_ANSWERED = (400, 405, 406, 410, 501)


def list_by_qido(
    settings: NodeSettings, peer: Peer, study_instance_uid: str, series_instance_uid: str
) -> frozenset[str] | None:
    """Return the SOP Instance UIDs that `peer` lists of a series, None if it answers no search.

    Raises
    ------
    QueryFailed
        The peer cannot be asked now.
    """
    path = f"/{study_instance_uid}/series/{series_instance_uid}/instances"
    found: set[str] = set()
    try:
        with WebClient(settings, peer) as client:
            for page in range(_MOST_PAGES):
                parameters = {"limit": str(_PAGE), "offset": str(page * _PAGE)}
                answer = client.get(path, parameters)
                if answer.status in _NOTHING:
                    break
                if answer.status in _NOT_ANSWERED:
                    return None
                if answer.status != 200:
                    raise QueryFailed(f"{peer.name} answers QIDO-RS with HTTP {answer.status}")
                listed = _uids(answer.body, peer)
                # A peer that knows no paging says the same again.
                if listed <= found:
                    break
                found |= listed
                if len(listed) < _PAGE:
                    break
    except TransientDelivery as error:
        raise QueryFailed(f"{peer.name}: {error}") from error
    return frozenset(found)


def _uids(body: bytes, peer: Peer) -> frozenset[str]:
    try:
        document = json.loads(body or b"[]")
    except (ValueError, RecursionError) as error:
        raise QueryFailed(f"{peer.name} answers QIDO-RS with something else than JSON") from error
    datasets = document if isinstance(document, list) else []
    return frozenset(uid for dataset in datasets if (uid := _uid(dataset)))


def _uid(dataset: Any) -> str:
    element = dataset.get(_SOP_INSTANCE_UID) if isinstance(dataset, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""
