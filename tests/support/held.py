"""What a PACS holds of our results, against what the ledger says that it sent."""

from __future__ import annotations

import io
from collections import Counter

import pydicom
import sqlalchemy as sa
from pydicom import Dataset

from dicom_node.ledger import open_ledger, tables
from support.orthanc import Orthanc

__all__ = ["assert_exactly_one_result_set", "our_objects"]


def our_objects(pacs: Orthanc) -> list[Dataset]:
    """Every object in the PACS that a node made, without pixels."""
    held = [
        pydicom.dcmread(io.BytesIO(pacs.download(instance)), stop_before_pixels=True)
        for instance in pacs.instances()
    ]
    return [item for item in held if item.get("ManufacturerModelName") == "m3lung-node"]


def assert_exactly_one_result_set(pacs: Orthanc, ledger_url: str, series_uid: str) -> Counter[str]:
    """Assert that the PACS holds just the objects of the series' newest reading; count by class.

    Exactly: the objects that the ledger says were sent, each once, of one analysis, and no other
    object of ours.
    """
    t = tables
    with open_ledger(ledger_url) as ledger, ledger.database.read() as connection:
        sent = connection.execute(
            sa.select(t.objects.c.sop_instance_uid, t.objects.c.analysis_id)
            .join(t.deliveries, t.deliveries.c.object_id == t.objects.c.id)
            .join(t.analyses, t.analyses.c.id == t.objects.c.analysis_id)
            .join(t.revisions, t.revisions.c.id == t.analyses.c.revision_id)
            .join(t.series, t.series.c.id == t.revisions.c.series_id)
            .where(
                t.series.c.series_instance_uid == series_uid,
                t.deliveries.c.state.in_(["sent", "commit_requested", "committed", "verified"]),
            )
        ).all()
    held = our_objects(pacs)
    uids = [str(item.SOPInstanceUID) for item in held]
    assert len(uids) == len(set(uids)), "an object is held twice"
    assert set(uids) == {row.sop_instance_uid for row in sent}
    assert len({row.analysis_id for row in sent}) == 1, "two result sets"
    return Counter(item.SOPClassUID.name for item in held)
