"""How many images a series has, asked of the PACS that sends it (C-FIND, Study Root, PS3.4 C.6.2).

One of the pieces of evidence that a series is complete. It is a question asked every few seconds
beside other work, so it is bounded in time, and a peer that cannot tell is no error.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.settings import NodeSettings, Peer
from dicom_node.tls import client_context, tls_failure

__all__ = ["STUDY_ROOT_FIND", "QueryFailed", "count_instances", "list_instances"]

STUDY_ROOT_FIND = str(StudyRootQueryRetrieveInformationModelFind)

_PENDING = (0xFF00, 0xFF01)
_LONGEST_S = 30.0  # for one question altogether, whatever the delivery timeouts are
_MOST_IMAGES = 20000  # a series with more is answered by nobody's stack


class QueryFailed(NodeError):
    """The peer could not be asked: no connection, rejected, aborted, no answer in time."""


def count_instances(
    settings: NodeSettings, peer: Peer, study_instance_uid: str, series_instance_uid: str
) -> int | None:
    """Return how many instances `peer` holds of a series, None if it cannot tell.

    NumberOfSeriesRelatedInstances (0020,1209) is optional for a PACS; where it is not answered,
    the images are counted one by one.

    Parameters
    ----------
    study_instance_uid, series_instance_uid : str
        Both are needed: at series level the study is a unique key (PS3.4 C.4.1.2.2.1).

    Returns
    -------
    int or None
        At least 0; 0 means that the peer answered and knows no such series.

    Raises
    ------
    QueryFailed
        The network or the association failed. The caller goes on without this evidence.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = series_instance_uid
    identifier.NumberOfSeriesRelatedInstances = None
    association = _associate(settings, peer)
    deadline = time.monotonic() + _LONGEST_S
    try:
        # A peer may ignore the unique key and answer for the whole study: look at what it names.
        series = [
            answer
            for answer in _answers(association, identifier, deadline)
            if answer.get("SeriesInstanceUID") == series_instance_uid
        ]
        if not series:
            return 0
        counted = _as_count(series[0].get("NumberOfSeriesRelatedInstances"))
        if counted is not None:
            return counted
        return _count_images(association, study_instance_uid, series_instance_uid, deadline)
    except _CannotTell:
        return None
    finally:
        if association.is_established:
            association.release()


def list_instances(
    settings: NodeSettings, peer: Peer, study_instance_uid: str, series_instance_uid: str
) -> frozenset[str] | None:
    """Return the SOP Instance UIDs that `peer` lists of a series, None if it lists none.

    A peer that knows no such series and one that answers no query at image level look the same.

    Raises
    ------
    QueryFailed
        The network or the association failed.
    """
    association = _associate(settings, peer)
    deadline = time.monotonic() + _LONGEST_S
    try:
        return _images(association, study_instance_uid, series_instance_uid, deadline) or None
    except _CannotTell:
        return None
    finally:
        if association.is_established:
            association.release()


class _CannotTell(NodeError):
    """The peer answered that it does not answer such a question."""


def _count_images(
    association: Any, study_instance_uid: str, series_instance_uid: str, deadline: float
) -> int | None:
    # The series is known, so no image at all means that image level is not answered.
    return len(_images(association, study_instance_uid, series_instance_uid, deadline)) or None


def _images(
    association: Any, study_instance_uid: str, series_instance_uid: str, deadline: float
) -> frozenset[str]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = series_instance_uid
    identifier.SOPInstanceUID = ""
    images = {
        str(answer.get("SOPInstanceUID", ""))
        for answer in _answers(association, identifier, deadline)
    }
    return frozenset(images - {""})


def _answers(association: Any, identifier: Dataset, deadline: float) -> Iterator[Dataset]:
    responses = association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind)
    for number, (status, answer) in enumerate(responses):
        if "Status" not in status:
            raise QueryFailed("the association broke or no answer came in time")
        if time.monotonic() > deadline or number > _MOST_IMAGES:
            association.abort()
            raise QueryFailed("the answer took too long")
        if status.Status in _PENDING:
            if answer is not None:
                yield answer
        elif status.Status != 0x0000:
            raise _CannotTell(f"C-FIND status 0x{status.Status:04X}")


def _as_count(value: object) -> int | None:
    try:
        count = int(str(value))
    except ValueError:
        return None
    return count if count >= 0 else None


def _associate(settings: NodeSettings, peer: Peer) -> Any:
    _reach(settings, peer)
    ae = AE(settings.ae_title)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = settings.delivery.connect_timeout_s
    response_timeout_s = min(settings.delivery.response_timeout_s, _LONGEST_S)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = response_timeout_s
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
        # The context itself checks that the certificate is the peer's.
        tls_args=(client_context(settings, peer), peer.host) if peer.tls else None,
    )
    if association.is_established:
        return association
    if association.is_rejected:
        raise QueryFailed(f"{peer.name} rejected the association")
    if association.rejected_contexts:
        raise QueryFailed(f"{peer.name} does not offer Study Root C-FIND")
    raise QueryFailed(f"{peer.name} does not answer at {peer.host}:{peer.port}")


def _reach(settings: NodeSettings, peer: Peer) -> None:
    """Connect once by hand: pynetdicom hides the reason, and leaves the failed socket open."""
    timeout_s = settings.delivery.connect_timeout_s
    try:
        connection = socket.create_connection((peer.host, peer.port), timeout=timeout_s)
    except OSError as error:
        raise QueryFailed(f"{peer.name} cannot be reached: {error}") from error
    with connection:
        if not peer.tls:
            return
        try:
            context = client_context(settings, peer)
            context.wrap_socket(connection, server_hostname=peer.host).close()
        except OSError as error:
            words = tls_failure(error)
            raise QueryFailed(f"{peer.name}: no TLS connection: {words}") from error
        except ConfigurationError as error:
            raise QueryFailed(f"{peer.name}: {error}") from error


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
