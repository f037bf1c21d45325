"""The JSON API: the same for programs, by token, with its schema."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.ledger.presence import SILENT_AFTER_S
from support.console_node import ConsoleNode, Filled, ServedConsole


@pytest.fixture(scope="module")
def program(filled: Filled, console: ServedConsole) -> Iterator[httpx.Client]:
    token = filled.node.users.new_token(filled.node.users.require("vera"))
    with console.client(Authorization=f"Bearer {token}") as client:
        yield client


def test_the_worklist(filled: Filled, program: httpx.Client) -> None:
    answer = program.get("/api/v1/worklist", params={"limit": 3}).json()
    assert answer["items"][0]["series_id"] == filled.receiving
    assert len(answer["items"]) == 3
    seen = list(answer["items"])
    while answer["older"]:
        answer = program.get("/api/v1/worklist", params={"limit": 3, "at": answer["older"]}).json()
        seen += answer["items"]
    assert len({item["series_id"] for item in seen}) == len(seen) == 8
    [failed] = [item for item in seen if item["series_id"] == filled.failed_delivery]
    assert failed["stage"] == "failed"
    assert failed["result"]["patient"]["predicted"] == "covid19"
    assert failed["deliveries"][0]["states"] == {"parked": 2}


def test_searches_by_body_alone(filled: Filled, program: httpx.Client) -> None:
    answer = program.post("/api/v1/worklist/search", json={"text": "PAT-0815"})
    assert [item["series_id"] for item in answer.json()["items"]] == [filled.failed_delivery]
    assert program.post("/api/v1/worklist/search", json={"text": ""}).status_code == 422


def test_a_cookie_alone_does_not_search(viewer: httpx.Client) -> None:
    # No form of ours, no header of ours: it might come from another site.
    answer = viewer.post("/api/v1/worklist/search", json={"text": "x"})
    assert answer.status_code == 403
    assert viewer.get("/api/v1/worklist").status_code == 200


def test_a_series_and_the_system(filled: Filled, program: httpx.Client) -> None:
    answer = program.get(f"/api/v1/series/{filled.failed_delivery}").json()
    assert answer["series"]["accession_number"] == "ACC-4711"
    assert {item["status"] for item in answer["deliveries"]} == {0xA700}
    assert [item["kind"] for item in answer["objects"]] == ["report", "summary"]
    assert program.get("/api/v1/series/999").status_code == 404
    system = program.get("/api/v1/system").json()
    assert system["counts"]["analyses"]["quarantined"] == 1
    assert system["ae_title"] == "M3LUNG"
    assert system["disk"]["total_bytes"] > 0
    assert system["processes"] == []


def test_the_system_names_the_processes_that_run(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("vera", ConsoleRole.VIEWER)
    node.ledger.presence.beat("work", started_at=node.now - 60.0, turned_at=None, counts={})
    with ServedConsole(node) as served, served.log_in("vera") as client:
        for path, missing in (("/system", 3), ("/api/v1/system", None)):
            answer = client.get(path)
            assert socket.gethostname()[:64] in answer.text
            if missing is not None:
                assert answer.text.count('<span class="badge bad">none</span>') == missing
        node.now += SILENT_AFTER_S + 1.0
        assert client.get("/api/v1/system").json()["processes"] == []
        assert client.get("/system").text.count('<span class="badge bad">none</span>') == 4
    node.ledger.close()


def test_the_schema_describes_what_is_answered(program: httpx.Client) -> None:
    schema = program.get("/api/v1/openapi.json").json()
    assert schema["openapi"].startswith("3.")
    assert set(schema["paths"]) == {
        *("/api/v1/worklist", "/api/v1/worklist/search"),
        *("/api/v1/series/{series_id}", "/api/v1/system"),
    }
    parts = schema["components"]["schemas"]
    for name, path in (("SeriesPage", "worklist"), ("SystemState", "system")):
        answer = program.get(f"/api/v1/{path}").json()
        assert set(answer) == set(parts[name]["properties"])
    item = program.get("/api/v1/worklist").json()["items"][0]
    assert set(item) == set(parts["SeriesItem"]["properties"])


def test_bad_questions_are_refused_without_an_echo(program: httpx.Client) -> None:
    for params in ({"stage": "SECRET"}, {"at": "SECRET"}, {"limit": "0"}, {"within_s": "-1"}):
        answer = program.get("/api/v1/worklist", params=params)
        assert answer.status_code == 422
        assert "SECRET" not in answer.text


def test_a_revoked_token_is_void(filled: Filled, console: ServedConsole) -> None:
    users = filled.node.users
    ada = users.require("ada")
    old, new = users.new_token(ada), users.new_token(ada)
    with console.client() as client:
        for token, code in ((old, 401), (new, 200)):
            answer = client.get("/api/v1/system", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == code
        users.revoke_token(ada)
        answer = client.get("/api/v1/system", headers={"Authorization": f"Bearer {new}"})
        assert answer.status_code == 401
        # A token opens the API and no page.
        users.new_token(ada)
        assert client.get("/", headers={"Authorization": f"Bearer {new}"}).status_code == 303
