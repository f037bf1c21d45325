"""What receiving needs of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from dicom_node.domain import Receipt, StoredInstance
from dicom_node.ledger import Arrival

__all__ = ["Intake"]


class Intake(Protocol):
    """The ledger's door for who receives: :class:`dicom_node.ledger.Intake`, or a test's own."""

    def open_association(self, *, calling_ae: str, called_ae: str, address: str) -> int:
        """Record an association that starts to store; return its id."""
        ...

    def close_association(
        self, association_id: int, *, outcome: str, ignored: Mapping[str, int]
    ) -> None:
        """Record how it ended; `ignored` counts thrown away objects by SOP Class UID."""
        ...

    def record_instances(
        self,
        arrivals: Sequence[Arrival],
        *,
        is_kept: Callable[[StoredInstance], bool],
        before_commit: Callable[[], None],
    ) -> list[Receipt]:
        """Record a batch in one durable transaction; one receipt per arrival, in order.

        `is_kept` says whether the spool holds what retention had removed once. `before_commit`
        returns when the files are durable; what it raises ends the transaction.
        """
        ...
