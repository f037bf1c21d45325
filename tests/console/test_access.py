"""Login, roles, forms, headers: who gets in, and what nobody gets past."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dicom_node.console.app import make_app
from dicom_node.console.armour import CONTENT_SECURITY_POLICY
from dicom_node.console.registry import discover
from dicom_node.console.throttle import LoginThrottle
from dicom_node.errors import ConfigurationError
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.settings import load_settings
from support.console_node import PASSWORD, ConsoleNode, Filled, ServedConsole, csrf_of


def routes() -> list[tuple[str, str, bool]]:
    """(method, path, public) of every page's routes."""
    return [
        (method, route.path, page.public)  # type: ignore[attr-defined]
        for page in discover()
        for route in page.router.routes
        for method in route.methods  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, public in routes() if not public])
def test_a_stranger_gets_nowhere(console: ServedConsole, method: str, path: str) -> None:
    path = path.format(
        series_id=1, analysis_id=1, number=1, layer="ct", name="x", peer="x", revision=1
    )
    with console.client() as stranger:
        token = csrf_of(stranger.get("/login").text)
        answer = stranger.request(method, path, headers={"X-CSRF-Token": token})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith("/login")


@pytest.mark.parametrize("path", ["worklist", "series/1", "system", "openapi.json", "nothing"])
def test_a_strange_program_gets_nowhere(console: ServedConsole, path: str) -> None:
    with console.client() as stranger:
        answer = stranger.get(f"/api/v1/{path}", headers={"Authorization": "Bearer m3l_guess"})
    assert answer.status_code == (404 if path == "nothing" else 401)
    assert "accession" not in answer.text


def test_login_and_logout(console: ServedConsole) -> None:
    with console.log_in("vera") as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "vera" in page.text
        cookie = client.cookies["m3lung_console"]
        assert client.post("/logout", data={"csrf": csrf_of(page.text)}).status_code == 303
        assert client.get("/").status_code == 303
    # The old cookie is worth nothing, even if somebody kept it.
    with console.client() as thief:
        thief.cookies.set("m3lung_console", cookie)
        assert thief.get("/").status_code == 303


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(console: ServedConsole) -> None:
    with console.client() as client:
        before = client.get("/login")
        token = csrf_of(before.text)
        answer = client.post("/login", data={"csrf": token, "name": "vera", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    # A cookie that was there before the login is not the session's.
    first, second = (r.headers["set-cookie"].split(";")[0] for r in (before, answer))
    assert first != second


def test_a_session_ends_by_time_and_by_a_new_password(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    user = node.users.require("ada")
    token = node.users.begin_session(user, 60.0)
    assert node.users.of_session(token) == node.users.require("ada")
    node.now += 61
    assert node.users.of_session(token) is None
    token = node.users.begin_session(user, 60.0)
    node.users.change(user, role=ConsoleRole.VIEWER)
    assert node.users.of_session(token) is None
    node.ledger.close()


def test_viewers_look_and_do_not_touch(
    filled: Filled, viewer: httpx.Client, admin: httpx.Client
) -> None:
    path = f"/series/{filled.failed_delivery}/retry"
    page = viewer.get("/").text
    assert "/retry" not in page
    refused = viewer.post(path, data={"csrf": csrf_of(page)})
    assert refused.status_code == 403
    assert "Only administrators" in refused.text
    assert "/retry" in admin.get("/").text


def test_a_form_of_another_site_is_refused(filled: Filled, admin: httpx.Client) -> None:
    path = f"/series/{filled.quarantined}/retry"
    token = csrf_of(admin.get("/").text)
    assert admin.post(path).status_code == 403
    altered = ("B" if token[0] == "A" else "A") + token[1:]
    assert admin.post(path, data={"csrf": altered}).status_code == 403
    elsewhere = admin.post(path, data={"csrf": token}, headers={"Sec-Fetch-Site": "cross-site"})
    assert elsewhere.status_code == 403
    [row] = filled.node.ledger.worklist.find(uid=f"2.25.7{filled.quarantined:06d}")
    assert row.analysis_state == "quarantined"


def test_the_login_itself_needs_its_form(console: ServedConsole) -> None:
    with console.client() as client:
        answer = client.post("/login", data={"name": "ada", "password": PASSWORD})
    assert answer.status_code == 403


def test_every_answer_is_armoured(console: ServedConsole, admin: httpx.Client) -> None:
    asset = "/static/console.css"
    for path in ("/", "/login", "/nothing", "/system", asset, "/api/v1/system"):
        answer = admin.get(path)
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers
        if path != asset:
            assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_no_page_has_anything_inline_or_from_elsewhere() -> None:
    folder = Path(make_app.__code__.co_filename).parent / "templates"
    for path in folder.glob("*.html"):
        text = path.read_text()
        assert "<style" not in text, path
        assert " style=" not in text, path
        assert " onclick=" not in text, path
        assert "hx-on" not in text, path
        assert "://" not in text, path
        assert "<script" not in text or path.name == "base.html", path
        assert "| safe" not in text, path


def test_who_guesses_has_to_wait(filled: Filled) -> None:
    with ServedConsole(filled.node) as served, served.client() as client:
        token = csrf_of(client.get("/login").text)

        def attempt(password: str, name: str = "vera") -> httpx.Response:
            return client.post("/login", data={"csrf": token, "name": name, "password": password})

        assert [attempt("wrong password").status_code for _ in range(5)] == [401] * 5
        slowed = attempt(PASSWORD)  # right, and too late
        assert slowed.status_code == 429
        assert 0 < int(slowed.headers["retry-after"]) <= 301
        # Others are not locked out by it.
        assert attempt(PASSWORD, "ada").status_code == 303


def test_guessing_is_counted_by_address_too() -> None:
    now = 0.0
    throttle = LoginThrottle(lambda: now)
    for number in range(20):
        assert throttle.wait_s("10.0.0.1", f"user{number}") == 0
        throttle.failed("10.0.0.1", f"user{number}")
    assert throttle.wait_s("10.0.0.1", "another") == 300
    assert throttle.wait_s("10.0.0.2", "another") == 0
    now = 301.0
    assert throttle.wait_s("10.0.0.1", "another") == 0


def test_after_the_login_it_goes_on_here_and_nowhere_else(console: ServedConsole) -> None:
    for wanted, place in (
        ("/system", "/system"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
    ):
        with console.client() as client:
            token = csrf_of(client.get("/login").text)
            answer = client.post(
                "/login",
                data={"csrf": token, "name": "vera", "password": PASSWORD, "next": wanted},
            )
        assert answer.headers["location"] == place


def test_a_proxy_is_believed_only_where_it_is_known(tmp_path: Path) -> None:
    node = ConsoleNode(
        tmp_path,
        console={"trusted_proxies": ["127.0.0.1"], "login_header": "X-Remote-User"},
    )
    node.users.add("rolf", ConsoleRole.VIEWER, "")
    with ServedConsole(node) as served:
        with served.client(**{"X-Remote-User": "rolf"}) as client:
            assert client.get("/").status_code == 200
            assert client.post("/", data={"csrf": "x"}).status_code == 403  # forms stay guarded
        with served.client(**{"X-Remote-User": "nobody"}) as client:
            assert client.get("/").status_code == 303
        # A proxy that added its own to one that somebody made up: neither is believed.
        with served.client() as client:
            twice = [("X-Remote-User", "rolf"), ("X-Remote-User", "ada")]
            assert client.get("/", headers=twice).status_code == 303
        node.configure(console={"trusted_proxies": ["10.9.9.9"], "login_header": "X-Remote-User"})
        with served.client(**{"X-Remote-User": "rolf"}) as client:
            assert client.get("/").status_code == 303
    node.ledger.close()


def test_a_login_header_without_known_proxies_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[console]\nlogin_header = "X-User"\n')
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        load_settings(tmp_path / "node.toml")


def test_it_may_live_below_a_path(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path, console={"base_path": "/m3lung"})
    node.user("ada", ConsoleRole.ADMIN)
    with ServedConsole(node, "/m3lung") as served:
        with served.log_in("ada") as client:
            page = client.get("/")
            assert page.status_code == 200
            assert 'href="/m3lung/system"' in page.text
        with served.client() as stranger:
            assert "Path=/m3lung" in stranger.get("/login").headers["set-cookie"]
            assert stranger.get("/system").headers["location"] == "/m3lung/login?next=/system"
        assert httpx.get(f"http://127.0.0.1:{served.port}/").status_code == 404
    node.ledger.close()


def test_the_first_administrator_is_made_by_the_command(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    with ServedConsole(node) as served:
        with served.client() as stranger:
            assert "m3lung console add-user NAME --role admin" in stranger.get("/login").text
            made = m3lung(node, "add-user", "ada", "--role", "admin", text=f"{PASSWORD}\n")
            assert made.returncode == 0, made.stderr
            assert "add-user" not in stranger.get("/login").text
        with served.log_in("ada") as client:
            assert client.get("/").status_code == 200
    for words, text in (
        (("ada", "--role", "viewer"), PASSWORD),
        (("bo", "--role", "admin"), "short"),
    ):
        refused = m3lung(node, "add-user", *words, text=text)
        assert refused.returncode == 2
        assert "m3lung:" in refused.stderr
    [user] = json.loads(m3lung(node, "users", "--json").stdout)
    assert (user["name"], user["role"], user["password"]) == ("ada", "admin", True)
    node.ledger.close()


def m3lung(node: ConsoleNode, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", "console", *words, "--config", str(node.config)],
        input=text, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def test_logins_and_orders_stand_in_the_audit_trail(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    series = node.quarantined(accession="ACC-SECRET", patient="PAT-SECRET")
    with ServedConsole(node) as served:
        with served.client() as client:
            token = csrf_of(client.get("/login").text)
            client.post("/login", data={"csrf": token, "name": "ada", "password": "a bad guess"})
        with served.log_in("ada") as client:
            token = csrf_of(client.get("/").text)
            client.post("/", data={"csrf": token, "text": "PAT-SECRET"})
            client.post(f"/series/{series}/retry", data={"csrf": token})
            client.post("/logout", data={"csrf": token})
    trail = "".join(path.read_text() for path in sorted((tmp_path / "state/audit").glob("*.jsonl")))
    for words in (
        "login failed",
        "login as admin",
        "retry: the analysis is queued again",
        "logout",
    ):
        assert words in trail
    assert "SECRET" not in trail
    assert "guess" not in trail
    node.ledger.close()


def test_nothing_of_a_password_or_token_is_kept(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    user = node.users.require("ada")
    token = node.users.new_token(user)
    session = node.users.begin_session(user, 60)
    assert user.password_hash.startswith("$argon2id$")
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").glob("ledger*"))
    for secret in (PASSWORD, token, session):
        assert secret.encode() not in kept
    node.ledger.close()


def test_a_body_without_end_is_cut_off(console: ServedConsole) -> None:
    with console.client() as client:
        answer = client.post("/login", content=b"a" * (2 << 20))
    assert answer.status_code == 413
