"""The ledger of a node, by its settings: opened, brought up to date, or made at the first start."""

from __future__ import annotations

from dicom_node.errors import LedgerMissing
from dicom_node.ledger import Ledger, open_ledger
from dicom_node.settings import NodeSettings
from dicom_node.spool import Spool

__all__ = ["open_node_ledger"]


def open_node_ledger(settings: NodeSettings) -> Ledger:
    """Open the node's ledger; an empty one is made where nothing was received yet.

    Beside a spool that holds images an empty ledger would disown them: they were acknowledged, and
    would neither be read nor kept.

    Raises
    ------
    LedgerMissing
        There is none, and the spool holds images.
    LedgerError
        The database cannot be reached, or was written by a newer version.
    """

    def may_be_made() -> None:
        if Spool(settings.spool_dir).holds_images():
            raise LedgerMissing(
                "there is no ledger, and the spool holds images that were acknowledged: "
                f"{settings.spool_dir}. Is a disk not mounted, or ledger.url another? Bring the "
                "ledger back (m3lung restore), or move that folder away to begin with nothing"
            )

    return open_ledger(
        settings.ledger_url, supersede=settings.completion.supersede, before_making=may_be_made
    )
