"""What the console asks of the ledger, on PostgreSQL as on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.ledger.changes import Changes
from dicom_node.ledger.listing import Listing, SeriesStage
from dicom_node.ledger.series_record import read_series
from dicom_node.ledger.signs_of_life import signs_of_life
from support.console_node import ConsoleNode, filled_node


@pytest.mark.peer("postgresql")
def test_postgresql_answers_the_same(tmp_path: Path, postgresql_url: str) -> None:
    filled = filled_node(tmp_path, postgresql_url)
    database = filled.node.ledger.database
    found = Listing(database)
    for stage in SeriesStage:
        page = found.page(stage=stage, limit=1)
        assert [row.stage for row in page.rows] == [stage]
    pages = [found.page(limit=3)]
    while pages[-1].older:
        pages.append(found.page(limit=3, cursor=pages[-1].older))
    assert [len(page.rows) for page in pages] == [3, 3, 2]
    assert found.page(text="PAT-0815").rows[0].status.series_id == filled.failed_delivery
    assert found.counts()[SeriesStage.FAILED] == 2
    changes = Changes(database)
    changes.look()
    assert filled.node.skipped() in changes.look().changed
    for row in found.page().rows:
        assert read_series(database, row.status.series_id) is not None
    assert signs_of_life(database).last_analysis_at is not None
    user = filled.node.users.require("ada")
    assert filled.node.users.of_session(filled.node.users.begin_session(user, 60)) is not None
    assert filled.node.users.of_token(filled.node.users.new_token(user)) is not None
    filled.node.ledger.close()


def test_the_changes_tell_what_changed_and_nothing_twice(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    old = node.quarantined()
    changes = Changes(node.ledger.database)
    assert changes.look().changed == frozenset()  # what is there, is on the page already
    new = node.received()
    found = changes.look()
    assert (found.changed, found.arrived) == ({new}, True)
    node.ledger.worklist.retry(old)
    found = changes.look()
    assert (found.changed, found.arrived) == ({old}, False)
    running = node.analysing()
    assert running in changes.look().changed
    assert changes.look().changed == frozenset()
    [analysis] = node.ledger.analyses.due(0.0)
    claim = node.ledger.analyses.claim(analysis, "somebody|x|y|1|1", 60)
    assert claim is not None
    assert changes.look().changed == {old}
    node.ledger.analyses.progress(claim, 60, "slices", 10, 20)
    assert changes.look().changed == {old}
    node.ledger.close()
