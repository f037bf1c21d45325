"""The page of the rules: who may do what, trials before saving, and what the file holds then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.ledger import Plan
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.settings import Priority
from support.console_node import ConsoleNode, ServedConsole, csrf_of

PEERS = """
[[peers]]
name = "pacs"
ae_title = "PACS"

# From the emergency department.
[[rules]]
name = "emergency"
calling_ae = ["ER*"]
priority = "urgent"

[[rules]]
name = "heads"
description = ["*head*"]
action = "skip"
reason = "Heads are not read here."
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ConsoleNode]:
    made = ConsoleNode(tmp_path)
    made.config.write_text(made.config.read_text() + PEERS)
    made.user("ada", ConsoleRole.ADMIN)
    made.user("vera", ConsoleRole.VIEWER)
    made.received()
    yield made
    made.ledger.close()


@pytest.fixture
def admin(node: ConsoleNode) -> Iterator[httpx.Client]:
    with ServedConsole(node) as served, served.log_in("ada") as client:
        yield client


def names(node: ConsoleNode) -> list[str]:
    return [rule.name for rule in node.source().rules]


def post(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    page = client.get("/rules").text
    seen = re.search(r'name="seen" value="([^"]+)"', page)
    assert seen is not None
    return client.post(path, data={"csrf": csrf_of(page), "seen": seen[1], **fields})


def test_everybody_sees_rules_and_trials_and_admins_change_them(node: ConsoleNode) -> None:
    with ServedConsole(node) as served:
        with served.log_in("vera") as viewer:
            page = viewer.get("/rules").text
            assert "the calling AE title is like &#34;ER*&#34;" in page
            assert "not analysed: Heads are not read here." in page
            assert "the calling AE title is &#34;CT1&#34;, not &#34;ER*&#34;" in page  # the trial
            assert "/rules/remove" not in page
            assert viewer.get("/rules/edit").status_code == 403
            data = {"csrf": csrf_of(page), "name": "heads"}
            assert viewer.post("/rules/remove", data=data).status_code == 403
        with served.log_in("ada") as admin:
            assert "/rules/remove" in admin.get("/rules").text
    assert names(node) == ["emergency", "heads"]


def test_a_rule_is_tried_before_it_is_saved(node: ConsoleNode, admin: httpx.Client) -> None:
    fields = {"name": "thorax", "description": "*thorax*", "shadow": "on", "action": "analyse"}
    tried = post(admin, "/rules/edit", do="try", **fields)
    assert tried.status_code == 200
    assert "Tried, not saved" in tried.text
    assert "in shadow, nothing is delivered" in tried.text
    assert names(node) == ["emergency", "heads"]
    saved = post(admin, "/rules/edit", do="save", **fields)
    assert saved.status_code == 303
    assert names(node) == ["emergency", "heads", "thorax"]
    assert node.source().rules[2].shadow
    assert "Rule thorax added" in admin.get("/rules").text


def test_rules_are_moved_edited_and_removed(node: ConsoleNode, admin: httpx.Client) -> None:
    assert post(admin, "/rules/move", name="heads", places="-1").status_code == 303
    assert names(node) == ["heads", "emergency"]
    assert '# From the emergency department.\n[[rules]]\nname = "emergency"' in (
        node.config.read_text()
    )
    page = admin.get("/rules/edit?name=emergency").text
    assert 'value="ER*"' in page
    changed = post(
        admin, "/rules/edit", do="save", was="emergency", name="emergency", calling_ae="ER*, ED?",
        priority="urgent", max_thickness_mm="3,5", destinations="pacs",
    )  # fmt: skip
    assert changed.status_code == 303
    rule = node.source().rules[1]
    assert (rule.calling_ae, rule.max_thickness_mm) == (("ER*", "ED?"), 3.5)
    assert post(admin, "/rules/remove", name="heads").status_code == 303
    assert names(node) == ["emergency"]
    assert [peer.name for peer in node.source().peers] == ["pacs"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Bad Name"}, "name: small letters"),
        ({"name": "x", "action": "skip"}, "reason: a skipped series needs one"),
        ({"name": "x", "min_age_years": "old"}, "min_age_years: &#39;old&#39; is no number"),
        ({"name": "x", "destinations": "nobody"}, "rules.x.destinations: no peer is called"),
        ({"name": "heads"}, "every name may stand once"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_changes(
    node: ConsoleNode, admin: httpx.Client, fields: dict[str, str], words: str
) -> None:
    before = node.config.read_text()
    answer = post(admin, "/rules/edit", do="save", **fields)
    assert answer.status_code == 422
    assert words in answer.text
    assert node.config.read_text() == before


def test_a_change_that_was_thought_of_before_another_is_refused(
    node: ConsoleNode, admin: httpx.Client
) -> None:
    page = admin.get("/rules").text
    node.config.write_text(node.config.read_text().replace("ER*", "ED*"))
    seen = re.search(r'name="seen" value="([^"]+)"', page)
    assert seen is not None
    data = {"csrf": csrf_of(page), "seen": seen[1], "name": "heads"}
    answer = admin.post("/rules/remove", data=data)
    assert answer.status_code == 422
    assert "changed meanwhile" in answer.text
    assert names(node) == ["emergency", "heads"]


def test_the_series_page_names_rule_priority_and_shadow(
    node: ConsoleNode, admin: httpx.Client
) -> None:
    series = node.received()
    plan = Plan(rule="emergency", priority=Priority.URGENT, behind_s=-3600.0)
    node.ledger.revisions.select(node.completed(series), {"sop_instance_uids": []}, plan)
    page = admin.get(f"/series/{series}").text
    assert '<dd>emergency <span class="dim">urgent</span></dd>' in page
    assert "Queued at position 1, urgent" in page
    found = admin.get(f"/api/v1/series/{series}").json()["series"]
    assert (found["rule"], found["priority"], found["shadow"]) == ("emergency", "urgent", False)
