"""Everything that can go wrong in the node.

::

    NodeError
    ├── ConfigurationError         node.toml or a command's argument is wrong
    │   └── PeerRefused            … of a peer: ``faults`` has words for each field
    ├── ReceiveError               an instance is not acknowledged; ``status`` is the DIMSE answer
    │   ├── OutOfResources         0xA700  no space, database locked, spool unwritable
    │   ├── DatasetMismatch        0xA900  dataset and command disagree, or UIDs are missing/illegal
    │   └── CannotUnderstand       0xC000  the dataset cannot be parsed
    ├── LedgerError
    │   ├── IllegalTransition      a state machine was asked for a pair it does not list
    │   ├── LeaseLost              another worker holds the row now: stop, write nothing
    │   ├── LedgerGone             the database's file was taken away: nothing is recorded
    │   └── SchemaMismatch         the database is newer or older than this software
    ├── BackupUnusable             a backup is incomplete or altered, or there is no place for it
    ├── BrokerUnavailable          no nudge was sent; the reconciler sends another
    ├── SeriesRejected             the series cannot be analysed; ``reason`` is for a radiologist
    │   └── SeriesSkipped          … or is not meant to be (not a chest CT, a localizer, …)
    └── DeliveryError              one object to one destination
        ├── TransientDelivery      refused, timeout, abort, 0xA7xx: tried again, for days
        ├── PermanentDelivery      AE not recognised, no accepted context, 0xA9xx/0xCxxx: parked
        └── UnsendableObject       the object itself cannot be read or encoded: quarantined
"""

from __future__ import annotations

from collections.abc import Mapping


class NodeError(Exception):
    """Base of all errors of :mod:`dicom_node`."""


class ConfigurationError(NodeError):
    """The configuration or an argument is wrong; the text names the field."""


class PeerRefused(ConfigurationError):
    """A peer is not taken into the configuration.

    Parameters
    ----------
    faults : mapping of str to str
        Field → what is wrong with it; the text is the first.
    """

    def __init__(self, faults: Mapping[str, str]) -> None:
        field, words = next(iter(faults.items()))
        super().__init__(f"{field}: {words}")
        self.faults = dict(faults)


class ReceiveError(NodeError):
    """An instance is not acknowledged (PS3.4 B.2.3)."""

    status = 0xC000


class OutOfResources(ReceiveError):
    """Refused: out of resources."""

    status = 0xA700


class DatasetMismatch(ReceiveError):
    """Error: data set does not match SOP class, or lacks legal UIDs."""

    status = 0xA900


class CannotUnderstand(ReceiveError):
    """Error: cannot understand."""

    status = 0xC000


class LedgerError(NodeError):
    """Base of the ledger's errors."""


class IllegalTransition(LedgerError):
    """A state machine was asked for a (state, event) pair that its table does not list."""


class LeaseLost(LedgerError):
    """The lease expired and another worker holds the row: write nothing more."""


class LedgerGone(LedgerError):
    """The file of the database was removed or replaced under the running node."""


class LedgerMissing(LedgerError):
    """There is no ledger where one has acknowledged images."""


class SchemaMismatch(LedgerError):
    """The database schema does not belong to this version of the software."""


class BackupUnusable(NodeError):
    """A backup is incomplete or altered, or does not fit where it was to go: nothing is in use."""


class BrokerUnavailable(NodeError):
    """The broker did not take a nudge in time. Nothing is lost: the ledger holds the work."""


class SeriesRejected(NodeError):
    """A series that cannot be analysed; ``reason`` is one sentence for a radiologist."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SeriesSkipped(SeriesRejected):
    """A series that is not meant to be analysed."""


class DeliveryError(NodeError):
    """One object was not delivered to one destination."""


class TransientDelivery(DeliveryError):
    """May succeed later: refused connection, timeout, abort, 0xA7xx."""


class PermanentDelivery(DeliveryError):
    """Will not succeed until somebody changes something: parked."""


class UnsendableObject(DeliveryError):
    """The stored object cannot be read or encoded for this destination."""
