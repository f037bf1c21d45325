"""What is answered to an association: rejection and abort reasons by name.

To an instance: :mod:`dicom_node.reception.status`.
"""

from __future__ import annotations

import enum

__all__ = ["AbortReason", "Rejection"]


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
