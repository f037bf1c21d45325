"""The tables of docs/conformance.md, asked of the code that does what they say.

Where there is a function that decides on the wire, it is called: contexts are proposed and
accepted, identifying information is read from encoded PDUs, C-FIND keys from what is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from markdown_tables import table, titled, titles
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification
from requestor_tables import (
    asked,
    commitment_contexts,
    find_contexts,
    find_keys,
    kinds_by_class,
    rejections_taken,
    requestor_contexts,
    store_status_taken,
)

from dicom_node import __version__, errors, source_query
from dicom_node.audit.message import EventID, EventType
from dicom_node.delivery.pdus import associate_rq
from dicom_node.domain import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    Receipt,
)
from dicom_node.header_reader import NODE_MODEL_NAME
from dicom_node.listener.contexts import acceptable_contexts, report_contexts
from dicom_node.listener.negotiation import acceptance, decode_request
from dicom_node.listener.status import Rejection
from dicom_node.reception.sop_classes import CT_STORAGE
from dicom_node.reception.status import (
    SOPClassNotSupported,
    TransferSyntaxNotSupported,
    status_of,
)
from dicom_node.results.codes import Concept
from dicom_node.results.result_set import MANUFACTURER
from dicom_node.settings import NodeSettings
from dicom_node.storage_commitment import PUSH_MODEL, ReportStatus

__all__ = ["BLOCKS"]


# -- cover and overview ---------------------------------------------------------------------------


def cover() -> str:
    """What this statement is about, as it stands in every object."""
    rows = (
        ("product", NODE_MODEL_NAME, "Manufacturer's Model Name (0008,1090)"),
        ("version", __version__, "Software Versions (0018,1020)"),
        ("made by", MANUFACTURER, "Manufacturer (0008,0070)"),
    )
    return table(("", "", "in the objects"), rows)


def overview() -> str:
    """SOP classes and roles."""
    rows = [(titled(Verification), "yes", "yes", "C-ECHO")]
    rows += [(titled(uid), "", "yes", "C-STORE: kept and analysed") for uid in sorted(CT_STORAGE)]
    rows.append(
        (
            f"{len(_other_storage())} other storage SOP classes (list below)",
            "",
            "yes",
            "C-STORE: taken and thrown away (`listener.other_storage`)",
        )
    )
    rows += [
        (titled(uid), "yes", "", f"C-STORE: {', '.join(kinds).replace('_', ' ')}")
        for uid, kinds in kinds_by_class().items()
    ]
    rows.append((titled(PUSH_MODEL), "yes", "", "N-ACTION; N-EVENT-REPORT is received"))
    rows.append(
        (titled(source_query.STUDY_ROOT_FIND), "yes", "", "C-FIND at SERIES and IMAGE level")
    )
    return table(("SOP class", "SCU", "SCP", "service"), rows)


def _other_storage() -> list[str]:
    ct = {*CT_STORAGE, Verification}
    return [
        str(context.abstract_syntax)
        for context in acceptable_contexts("ignore")
        if context.abstract_syntax not in ct
    ]


# -- the acceptor ---------------------------------------------------------------------------------


def _accepted() -> dict[str, tuple[str, ...]]:
    """Return SOP class → transfer syntaxes of a source that may send."""
    return {
        str(context.abstract_syntax): tuple(map(str, context.transfer_syntax))
        for context in acceptable_contexts("ignore")
    }


def acceptor_contexts() -> str:
    """What the listener accepts of a source and of a destination that reports."""
    accepted = _accepted()
    kept = {accepted[uid] for uid in CT_STORAGE}
    (ct_syntaxes,) = kept  # the same for all three, or this table has to be drawn another way
    rows = [
        (titled(Verification), titles(accepted[Verification]), "SCP", "every known caller"),
        (
            "<br>".join(titled(uid) for uid in sorted(CT_STORAGE)),
            titles(ct_syntaxes),
            "SCP",
            "a peer with the role `source`",
        ),
    ]
    for context in report_contexts():
        if context.abstract_syntax == PUSH_MODEL:
            role = "SCU; the caller is SCP by role selection" if context.scp_role else "?"
            syntaxes = titles(map(str, context.transfer_syntax))
            whom = 'a destination with `commitment = "request"`'
            rows.append((titled(PUSH_MODEL), syntaxes, role, whom))
    heads = ("abstract syntax", "transfer syntaxes, ours preferred first", "our role", "from whom")
    return table(heads, rows)


def not_accepted_syntaxes() -> str:
    """Transfer syntaxes in which a CT is not accepted."""
    taken = set(_accepted()[min(CT_STORAGE)])
    left = [uid for uid in AllTransferSyntaxes if uid not in taken]
    return ", ".join(f"{UID(uid).name} `{uid}`" for uid in left) + "."


def other_storage() -> str:
    """What is taken and thrown away."""
    accepted = _accepted()
    others = _other_storage()
    (syntaxes,) = {accepted[uid] for uid in others}
    deflated = [uid for uid in AllTransferSyntaxes if uid not in syntaxes]
    words = (
        f"{len(others)} SOP classes, each in {len(syntaxes)} transfer syntaxes: all that PS3.6 "
        f"names but {', '.join(UID(uid).name for uid in deflated)}.\n\n"
    )
    return words + table(("SOP class", "UID"), ((UID(uid).name, f"`{uid}`") for uid in others))


_REJECTED = {
    Rejection.UNKNOWN_CALLER: (
        "no enabled peer of this calling AE title may call here, or its address, TLS or "
        "certificate is not that peer's"
    ),
    Rejection.UNKNOWN_CALLED_AE: "the called AE title is none of ours",
    Rejection.APPLICATION_CONTEXT: "another application context than DICOM's",
    Rejection.PROTOCOL_VERSION: "another version of the upper layer protocol",
    Rejection.CONGESTION: (
        "the disk is above its high-water mark or nearly full, or the node is stopping"
    ),
    Rejection.LIMIT_EXCEEDED: "`listener.max_associations` are established",
}


def acceptor_rejections() -> str:
    """A-ASSOCIATE-RJ, given."""
    return table(
        ("result", "source", "reason", "when"),
        ((*one.value, _REJECTED[one]) for one in Rejection),
    )


def store_status_given() -> str:
    """C-STORE-RSP, given."""
    words = {
        Receipt.STORED: "kept: file and ledger row are on stable storage",
        Receipt.DUPLICATE: "held already, byte for byte: no effect",
        Receipt.CONFLICT: (
            "same SOP Instance UID, other content: the first one stays, this is set aside"
        ),
        Receipt.OWN_OUTPUT: "made by this node: taken, not kept",
        Receipt.IGNORED: "another storage class: taken, not kept",
    }
    rows: list[tuple[str, str, str]] = [
        ("0x0000", "Success", "; ".join(words[receipt] for receipt in Receipt))
    ]
    for error, name, when in (
        (SOPClassNotSupported(), "Refused: SOP class not supported",
         "the SOP class is not that of the presentation context"),
        (errors.OutOfResources(), "Refused: out of resources",
         "no room, too large, or spool or ledger cannot be written"),
        (errors.DatasetMismatch(), "Error: data set does not match SOP class",
         "command and data set disagree, or a UID is missing or illegal"),
        (errors.CannotUnderstand(), "Error: cannot understand", "the data set cannot be read"),
        (RuntimeError(), "Error: cannot understand", "internal error"),
    ):  # fmt: skip
        rows.append((f"0x{status_of(error)[0]:04X}", name, when))
    return table(("status", "meaning", "when"), rows)


def report_status_given() -> str:
    """N-EVENT-REPORT-RSP, given."""
    words = {
        "SUCCESS": "taken, and durable in the ledger",
        "PROCESSING_FAILURE": "it could not be written; send it again",
        "NO_SUCH_EVENT_TYPE": "another Event Type ID than 1 and 2",
        "INVALID_ARGUMENT": "a Transaction UID that was never asked of this peer",
        "INVALID_INSTANCE": "another SOP class or instance than the well-known ones",
        "MISTYPED_ARGUMENT": "the data set cannot be read",
    }
    found = {name: value for name, value in vars(ReportStatus).items() if name.isupper()}
    return table(
        ("status", "when"), ((f"0x{status:04X}", words[name]) for name, status in found.items())
    )


# -- who we say that we are -----------------------------------------------------------------------


def identification() -> str:
    """Implementation identity and largest PDU, read from encoded PDUs."""
    context = build_context(Verification)
    context.context_id = 1
    request = associate_rq("M3LUNG", "ARCHIVE", [context])
    sent = A_ASSOCIATE_RQ()
    sent.decode(request)
    limit = NodeSettings().listener.max_pdu_bytes
    answer, _ = acceptance(decode_request(request[6:]), acceptable_contexts("ignore"), limit)
    answered = A_ASSOCIATE_AC()
    answered.decode(answer)
    asking, _ = asked()
    rows = []
    for name, pdu in (("listener (acceptor)", answered), ("delivery (requestor)", sent)):
        said = pdu.user_information
        uid, version = said.implementation_class_uid, said.implementation_version_name
        rows.append((name, f"`{uid}`", f"`{_text(version)}`", said.maximum_length))
    uid, version = asking.implementation_class_uid, asking.implementation_version_name
    rows.append(("C-FIND (requestor)", f"`{uid}`", f"`{version}`", asking.maximum_pdu_size))
    rows.append(("files", f"`{IMPLEMENTATION_CLASS_UID}`", f"`{IMPLEMENTATION_VERSION_NAME}`", ""))
    heads = ("where", "Implementation Class UID", "Implementation Version Name", "largest PDU")
    return table(heads, rows)


def _text(value: bytes | str | None) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def limits() -> str:
    """Association policies of the acceptor."""
    node = NodeSettings()
    shown = {
        "port": "TCP port",
        "processes": "processes that share it",
        "max_associations": "established associations, each process",
        "max_connections": "TCP connections, each process",
        "max_connections_per_address": "TCP connections of one address, each process",
        "max_pdu_bytes": "largest PDU that is received",
        "handshake_timeout_s": "TLS handshake and A-ASSOCIATE-RQ, seconds",
        "pdu_timeout_s": "from a PDU's first byte to its last, seconds (ARTIM and beyond)",
        "idle_timeout_s": "without any PDU, seconds",
        "max_instance_bytes": "largest instance",
    }
    rows = [
        (f"`listener.{name}`", words, getattr(node.listener, name)) for name, words in shown.items()
    ]
    rows.append(("`tls.port`", "TCP port with TLS", node.tls.port))
    return table(("setting", "what", "default"), rows)


# -- DICOMweb -------------------------------------------------------------------------------------

STOW_ANSWERS = {
    200: "every part is stored",
    202: "some parts are stored, some are not: Failed SOP Sequence says which",
    400: (
        "no HTTP, no boundary, an illegal Study Instance UID in the address, a body that is no "
        "multipart message or breaks off; parts that were whole are stored, and listed"
    ),
    401: "no token and no certificate, or one that is no enabled source's",
    403: "a known source: from another address, without its TLS, or with another certificate",
    404: "another resource than `studies` and `studies/{study}`",
    405: "another method than POST",
    408: "256 KiB of the body took longer than `listener.pdu_timeout_s`",
    409: "no part is stored, for what is wrong with them",
    413: "larger than `stow.max_request_bytes`, or more than 20,000 parts",
    415: 'not `multipart/related; type="application/dicom"`, or with a content encoding',
    431: "a header of more than 64 KiB",
    501: "an unknown transfer coding",
    503: (
        "no room on the disk, no place among `listener.max_associations`, the node is stopping, "
        "or no part could be stored for want of room; `Retry-After` says when to come again"
    ),
}
"""HTTP status → when it is given."""


def stow_answers() -> str:
    """What a request is answered."""
    rows = ((status, HTTPStatus(status).phrase, when) for status, when in STOW_ANSWERS.items())
    return table(("status", "", "when"), rows)


def stow_reasons() -> str:
    """Failure Reason of a part."""
    rows = []
    for error, when in (
        (SOPClassNotSupported(), "no storage SOP class that is known, or not taken here"),
        (errors.OutOfResources(), "no room, too large, or spool or ledger cannot be written"),
        (errors.DatasetMismatch(),
         "a UID is missing or illegal, or File Meta Information, data set and address disagree"),
        (errors.CannotUnderstand(), "no DICOM file, another media type, or it cannot be read"),
        (RuntimeError(), "internal error"),
        (TransferSyntaxNotSupported(), "a CT in a transfer syntax that is not accepted"),
    ):  # fmt: skip
        status, _ = status_of(error)
        rows.append((f"0x{status:04X}", status, when))
    return table(("Failure Reason (0008,1197)", "decimal", "when"), rows)


def stow_limits() -> str:
    """The port and its limits; the others are the listener's."""
    stow = NodeSettings().stow
    shown = {
        "enabled": "whether there is the port",
        "port": "TCP port",
        "base_path": "before `/studies`",
        "tls": "HTTPS",
        "max_request_bytes": "largest request",
    }
    rows = ((f"`stow.{name}`", words, getattr(stow, name)) for name, words in shown.items())
    return table(("setting", "what", "default"), rows)


# -- codes and audit ------------------------------------------------------------------------------


def codes() -> str:
    """Every code that is written."""
    return table(
        ("code value", "scheme", "meaning", "taken from"),
        (
            (f"`{one.code_value}`", one.scheme, one.meaning, one.source.value.partition(":")[0])
            for one in Concept
        ),
    )


def audit_events() -> str:
    """Events of the audit trail."""
    events = [(EventID.__name__, one) for one in EventID]
    events += [(EventType.__name__, one) for one in EventType]
    return table(
        ("field", "code", "scheme", "meaning"),
        (
            (field, f"`{code['csd-code']}`", code["codeSystemName"], code["originalText"])
            for field, one in events
            for code in (one.coded(),)
        ),
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "cover": cover,
    "overview": overview,
    "acceptor contexts": acceptor_contexts,
    "not accepted": not_accepted_syntaxes,
    "other storage": other_storage,
    "acceptor rejections": acceptor_rejections,
    "store status given": store_status_given,
    "report status given": report_status_given,
    "requestor contexts": requestor_contexts,
    "commitment contexts": commitment_contexts,
    "store status taken": store_status_taken,
    "rejections taken": rejections_taken,
    "find contexts": find_contexts,
    "find keys": find_keys,
    "identification": identification,
    "limits": limits,
    "stow answers": stow_answers,
    "stow reasons": stow_reasons,
    "stow limits": stow_limits,
    "codes": codes,
    "audit events": audit_events,
}
"""Name of the marker → what stands between it and its end."""
