"""What is answered: DIMSE status by exception, rejection and abort reasons by name."""

from __future__ import annotations

import enum

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import (
    CannotUnderstand,
    DatasetMismatch,
    LedgerError,
    OutOfResources,
    ReceiveError,
)

__all__ = ["SUCCESS", "AbortReason", "Rejection", "SOPClassNotSupported", "status_of"]

SUCCESS = 0x0000


class SOPClassNotSupported(ReceiveError):
    """Refused: the SOP class is not supported, or is not that of the presentation context."""

    status = 0x0122


# PS3.4 B.2.3, PS3.7 Annex C: status and Error Comment. The most derived class that is listed
# counts. The comment of our own errors is their text, which names attributes and never values.
_STATUS: dict[type[BaseException], tuple[int, str | None]] = {
    SOPClassNotSupported: (0x0122, None),
    OutOfResources: (0xA700, None),
    DatasetMismatch: (0xA900, None),
    CannotUnderstand: (0xC000, None),
    ReceiveError: (0xC000, None),
    LedgerError: (0xA700, "the ledger cannot be written"),
    SQLAlchemyError: (0xA700, "the ledger cannot be written"),
    OSError: (0xA700, "the node is short of resources"),
    MemoryError: (0xA700, "the node is short of resources"),
    BaseException: (0xC001, "internal error"),
}
_MAX_COMMENT = 64  # LO


def status_of(error: BaseException) -> tuple[int, str]:
    """Return the DIMSE status and Error Comment for `error`."""
    for cls in type(error).__mro__:
        if cls in _STATUS:
            status, comment = _STATUS[cls]
            text = str(error) if comment is None else comment
            return status, text.encode("ascii", "replace").decode("ascii")[:_MAX_COMMENT]
    raise AssertionError("every exception derives from BaseException")


class Rejection(enum.Enum):
    """A-ASSOCIATE-RJ: (result, source, reason), PS3.8 table 9-21."""

    UNKNOWN_CALLER = (1, 1, 3)
    UNKNOWN_CALLED_AE = (1, 1, 7)
    APPLICATION_CONTEXT = (1, 1, 2)
    PROTOCOL_VERSION = (1, 2, 2)
    CONGESTION = (2, 3, 1)
    LIMIT_EXCEEDED = (2, 3, 2)


class AbortReason(enum.IntEnum):
    """A-ABORT of the service provider, PS3.8 table 9-26."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6
