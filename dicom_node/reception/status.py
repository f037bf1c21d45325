"""What a sender is answered: status by exception (PS3.4 B.2.3; PS3.18 Table I.2-2)."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import (
    CannotUnderstand,
    DatasetMismatch,
    LedgerError,
    OutOfResources,
    ReceiveError,
)

__all__ = ["SUCCESS", "SOPClassNotSupported", "TransferSyntaxNotSupported", "status_of"]

SUCCESS = 0x0000


class SOPClassNotSupported(ReceiveError):
    """Refused: the SOP class is not supported, or is not that of the presentation context."""

    status = 0x0122


class TransferSyntaxNotSupported(ReceiveError):
    """Refused: the transfer syntax is not supported. By DIMSE it is refused before."""

    status = 0xC122


# PS3.4 B.2.3, PS3.7 Annex C: status and Error Comment. The most derived class that is listed
# counts. The comment of our own errors is their text, which names attributes and never values.
_STATUS: dict[type[BaseException], tuple[int, str | None]] = {
    SOPClassNotSupported: (0x0122, None),
    TransferSyntaxNotSupported: (0xC122, None),
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
