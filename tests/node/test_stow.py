"""STOW-RS as input: what is stored, what is refused, and how it is told (PS3.18 §10.5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from dicom_node.reception.caller import Caller
from dicom_node.reception.group_commit import GroupCommit
from dicom_node.reception.session import Reception, ReceptionSession
from dicom_node.settings import NodeSettings
from dicom_node.spool import Spool, content_digest
from dicom_node.stow import body as stow_body
from dicom_node.stow.access import Denied, identify
from dicom_node.stow.part import DicomPart
from dicom_node.tls import PeerCertificate
from support.listening import ct_dataset, encode
from support.posting import (
    BOUNDARY,
    TOKEN,
    PostingNode,
    body_of,
    content_type,
    part_10,
    raw_request,
    status_line,
)

STUDY = "2.25.5"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostingNode]:
    made = PostingNode(tmp_path_factory.mktemp("stow"), max_instance_bytes=4 << 20)
    made.start()
    yield made
    made.stop()


def test_what_is_posted_is_kept_as_if_it_had_come_by_c_store(node: PostingNode) -> None:
    slices = [ct_dataset(number) for number in range(5)]
    uids = {str(one.SOPInstanceUID) for one in slices}
    answer = node.post([part_10(one) for one in slices], study=STUDY)
    assert (answer.status, answer.stored, answer.failed) == (200, uids, {})
    held = node.instances()
    for one in slices:
        digest, path = held[str(one.SOPInstanceUID)]
        assert digest == content_digest("1.2.840.10008.1.2.1", encode(one))
        assert (node.spool / path).is_file()
    # By the other door the same instance is the same.
    with node.sender() as sender:
        assert sender.store_dataset(slices[0]) == 0
    assert node.sql("select count(*) from conflicts") == [(0,)]
    # A request is an association of its sender that ended in order.
    assert ("SENDER", "M3LUNG", "released") in node.sql(
        "select calling_ae, called_ae, outcome from associations where closed_at is not null"
    )


def test_parts_are_answered_one_by_one(node: PostingNode) -> None:
    good, elsewhere, deflated, unknown, large = (ct_dataset(number) for number in range(5))
    elsewhere.StudyInstanceUID = "2.25.99"
    unknown.SOPClassUID = "1.2.840.10008.5.1.4.1.1.9999"
    large.PixelData = bytes(5 << 20)
    unnamed = ct_dataset(9)
    unnamed.SOPInstanceUID = ""
    other = ct_dataset(10, Modality="MR")
    other.SOPClassUID = MRImageStorage
    files = [
        part_10(good),
        part_10(elsewhere),
        part_10(deflated, DeflatedExplicitVRLittleEndian),
        part_10(unknown),
        part_10(large),
        part_10(other),
        part_10(good)[:200],
        b"no file at all",
        b"",
    ]
    answer = node.post(files, study=STUDY)
    assert answer.status == 202
    # The other class is taken and thrown away, so that a study's route does not fail on it.
    assert answer.stored == {str(good.SOPInstanceUID), str(other.SOPInstanceUID)}
    assert answer.failed == {
        str(elsewhere.SOPInstanceUID): 0xA900,
        str(deflated.SOPInstanceUID): 0xC122,
        str(unknown.SOPInstanceUID): 0x0122,
        str(large.SOPInstanceUID): 0xA700,
    }
    assert answer.others == [0xC000] * 3
    held = node.instances()
    assert str(good.SOPInstanceUID) in held
    assert not held.keys() & {*answer.failed, str(other.SOPInstanceUID)}
    assert not list((node.spool / "incoming").iterdir())


def test_where_nothing_is_stored_the_status_says_whose_fault_it_is(node: PostingNode) -> None:
    wrong, large = ct_dataset(1, StudyInstanceUID="2.25.99"), ct_dataset(2)
    assert node.post([part_10(wrong)], study=STUDY).status == 409
    large.PixelData = bytes(5 << 20)
    answer = node.post([part_10(large)])
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert answer.failed == {str(large.SOPInstanceUID): 0xA700}


def test_the_same_again_and_another_content_under_a_used_uid(node: PostingNode) -> None:
    once = ct_dataset(1)
    uid = str(once.SOPInstanceUID)
    assert node.post([part_10(once), part_10(once)]).status == 200
    other = ct_dataset(1, SOPInstanceUID=uid, PatientID="ANOTHER")
    assert node.post([part_10(other)]).stored == {uid}
    assert node.instances()[uid][0] == content_digest("1.2.840.10008.1.2.1", encode(once))
    assert node.sql("select count(*) from conflicts where sop_instance_uid = ?", uid) == [(1,)]


def test_meta_information_of_the_sender_is_not_kept(node: PostingNode) -> None:
    one = ct_dataset(1)
    file = part_10(one, ImplicitVRLittleEndian)
    marked = b"MARK" * 32 + file[128:]  # a preamble of its own
    assert node.post([marked]).status == 200
    digest, path = node.instances()[str(one.SOPInstanceUID)]
    assert digest == content_digest("1.2.840.10008.1.2", encode(one, implicit=True))
    assert b"MARK" not in (node.spool / path).read_bytes()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer guess",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
    ],
)
def test_nobody_stores_without_the_token(node: PostingNode, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    one = ct_dataset(1)
    answer = node.post([part_10(one)], token=None, **headers)
    assert (answer.status, answer.text) == (401, "")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert str(one.SOPInstanceUID) not in node.instances()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/dicom-web/studies/1.2.3/series", "POST", 404),
        ("/dicom-web", "POST", 404),
        ("/studies", "POST", 404),
        ("/dicom-web/studies/", "POST", 400),
        ("/dicom-web/studies/1.02.3", "POST", 400),
        ("/dicom-web/studies/..%2f..%2fetc", "POST", 404),
        ("/dicom-web/studies", "GET", 405),
        ("/dicom-web/studies", "HEAD", 405),
        ("/dicom-web/studies", "DELETE", 405),
    ],
)
def test_other_resources_and_methods(
    node: PostingNode, path: str, method: str, status: int
) -> None:
    with node.client() as client:
        url = node.url.removesuffix("/dicom-web/studies") + path
        answer = client.request(method, url, headers={"Content-Type": content_type()})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/dicom"}, 415),
        ({"Content_Type": f"multipart/form-data; boundary={BOUNDARY}"}, 415),
        ({"Content_Type": f'multipart/related; type="text/xml"; boundary={BOUNDARY}'}, 415),
        ({"Content_Type": f"multipart/related; boundary={BOUNDARY}"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content_Type": content_type("x" * 129)}, 400),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Transfer_Encoding": "gzip", "Content_Length": ""}, 501),
        ({"Content_Length": str(1 << 60)}, 413),
        ({"Content_Length": "many"}, 400),
        ({"X_Long": "x" * 200_000}, 431),
    ],
)
def test_what_cannot_be_read_is_refused_before_its_body(
    node: PostingNode, headers: dict[str, str], status: int
) -> None:
    with node.raw() as connection:
        connection.sendall(raw_request(**headers))
        assert status_line(connection) == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing of the kind",
        f"--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\n".encode(),
        f"--{BOUNDARY}\nContent-Type: application/dicom\n\nx\n--{BOUNDARY}--".encode(),
        body_of([b"x"]).replace(b"\r\n\r\n", b"\r\nX: y" * 40 + b"\r\n\r\n"),
        f"--{BOUNDARY}\r\nX: {'y' * 9000}\r\n\r\n--{BOUNDARY}--\r\n".encode(),
        body_of([b"x"], "another"),
    ],
    ids=["nothing", "text", "no part", "cut", "line feeds", "headers", "long header", "boundary"],
)
def test_bodies_that_are_none(node: PostingNode, body: bytes) -> None:
    assert node.post_body(body).status == 400
    assert node.is_running


def test_a_part_of_another_kind_is_refused_and_its_neighbour_stored(node: PostingNode) -> None:
    one, two, three = (part_10(ct_dataset(number)) for number in range(3))
    body = body_of([one, two, three])
    body = body.replace(b"Content-Type: application/dicom", b"Content-Type: image/jpeg", 1)
    encoded = b"Content-Type: application/dicom\r\nContent-Transfer-Encoding: base64"
    cut = body.rindex(b"Content-Type: application/dicom")
    body = body[:cut] + encoded + body[cut + 31 :]
    answer = node.post_body(body)
    assert (answer.status, len(answer.stored), answer.others) == (202, 1, [0xC000, 0xC000])


def test_of_a_body_that_breaks_off_the_whole_parts_are_told(node: PostingNode) -> None:
    whole, cut = ct_dataset(1), ct_dataset(2)
    body = body_of([part_10(whole), part_10(cut)], end=False)
    answer = node.post_body(body[:-50])
    assert (answer.status, answer.stored) == (400, {str(whole.SOPInstanceUID)})
    held = node.instances()
    assert str(whole.SOPInstanceUID) in held
    assert str(cut.SOPInstanceUID) not in held
    assert ("aborted",) in node.sql("select outcome from associations order by id desc limit 1")


def test_a_sender_that_goes_away_leaves_what_was_whole(node: PostingNode) -> None:
    whole, cut = ct_dataset(1), ct_dataset(2)
    body = body_of([part_10(whole), part_10(cut)], end=False)
    with node.raw() as connection:
        connection.sendall(raw_request(body[:-50], length=1 << 20))
    node.wait_until(lambda: str(whole.SOPInstanceUID) in node.instances())
    node.wait_until(lambda: not list((node.spool / "incoming").iterdir()))
    assert str(cut.SOPInstanceUID) not in node.instances()


def test_chunks_requests_on_one_connection_and_a_sender_that_asks_first(node: PostingNode) -> None:
    one, two, three = (ct_dataset(number) for number in range(3))

    def pieces(body: bytes) -> Iterator[bytes]:
        yield from (body[start : start + 999] for start in range(0, len(body), 999))

    with node.client() as client:
        assert node.post_body(pieces(body_of([part_10(one)])), client=client).status == 200
        assert node.post([part_10(two)], client=client).status == 200
        assert node.post([b"x"], client=client).status == 409
    body = body_of([part_10(three)])
    with node.raw() as connection:
        connection.sendall(raw_request(length=len(body), Expect="100-continue"))
        assert status_line(connection) == 100
        connection.sendall(body)
        assert status_line(connection) == 200
    held = node.instances()
    assert {str(each.SOPInstanceUID) for each in (one, two, three)} <= held.keys()


def test_any_cut_of_the_stream_gives_the_same(node: PostingNode) -> None:
    """Boundaries, heads and pixels that look like boundaries, byte by byte over the wire."""
    one = ct_dataset(1)
    decoy = f"\r\n--{BOUNDARY}".encode()[:-1]
    one.PixelData = (decoy * 600)[: len(one.PixelData)]
    body = body_of([part_10(one)])
    with node.raw() as connection:
        connection.sendall(raw_request(length=len(body)))
        for start in range(0, len(body), 7):
            connection.sendall(body[start : start + 7])
        assert status_line(connection) == 200
    digest, _ = node.instances()[str(one.SOPInstanceUID)]
    assert digest == content_digest("1.2.840.10008.1.2.1", encode(one))


def test_what_is_said_is_counted_and_audited_without_patients(node: PostingNode) -> None:
    node.post([part_10(ct_dataset(1))])
    trail = "".join(path.read_text() for path in (node.state / "audit").glob("*.jsonl"))
    assert "STOW-RS: a token that is no enabled source" in trail
    assert "SENDER" in trail
    for canary in ("Canary", "CANARY-4711", TOKEN):
        assert canary not in node.logged()
        assert canary not in trail


# -- who may send ----------------------------------------------------------------------------------

OTHER_TOKEN = "token-of-another-0123456789-"
SENDER = PeerCertificate(sha256="a" * 64, names=("scanner",))


def settings_of(**peer: Any) -> NodeSettings:
    fields = {"name": "scan-ner", "ae_title": "SCANNER", "roles": ["source"], **peer}
    return NodeSettings(
        peers=[fields],
        credentials={"scan_ner": {"accepted_token": f"{TOKEN},{OTHER_TOKEN}"}},
        tls={"certificate": "x", "key": "y", "ca": "z"},
    )


def seen(settings: NodeSettings, caller: Caller, token: str = TOKEN) -> int | str:
    """Who is found, or with what status nobody is."""
    try:
        return identify(settings, caller, f"Bearer {token}").name
    except Denied as denied:
        return denied.status


def test_address_tls_and_certificate_of_a_peer_hold_beside_its_token() -> None:
    here, there = Caller("10.1.2.3"), Caller("10.9.9.9")
    assert seen(settings_of(), there) == "scan-ner"
    assert seen(settings_of(), there, OTHER_TOKEN) == "scan-ner"  # while it is changed
    assert seen(settings_of(addresses=["10.1.0.0/16"]), here) == "scan-ner"
    assert seen(settings_of(addresses=["10.1.0.0/16"]), there) == 403
    secured = settings_of(tls=True, certificate_name="scanner")
    assert seen(secured, here) == 403
    assert seen(secured, Caller("10.1.2.3", secure=True)) == 403
    assert seen(secured, Caller("10.1.2.3", secure=True, certificate=SENDER)) == "scan-ner"
    other = PeerCertificate(sha256="b" * 64, names=("another",))
    assert seen(secured, Caller("10.1.2.3", secure=True, certificate=other)) == 403
    assert seen(settings_of(enabled=False), here) == 401
    assert seen(settings_of(roles=["destination"]), here) == 401


def test_who_has_a_token_has_to_show_it() -> None:
    secured = settings_of(tls=True, certificate_name="scanner")
    with pytest.raises(Denied) as raised:
        identify(secured, Caller("10.1.2.3", secure=True, certificate=SENDER), None)
    assert raised.value.status == 401


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"credentials": {"a": {"accepted_token": "short"}}}, "24 or more"),
        ({"credentials": {"a": {"accepted_token": f"{TOKEN},"}}}, "24 or more"),
        ({"credentials": {"a": {"accepted_token": "\u00fc" * 30}}}, "24 or more"),
        (
            {"credentials": {"a": {"accepted_token": TOKEN}, "b": {"accepted_token": TOKEN}}},
            "another peer has the same",
        ),
        ({"stow": {"enabled": True, "tls": True}}, "needs our own certificate"),
        (
            {
                "stow": {"enabled": True},
                "tls": {"certificate": "x", "key": "y", "ca": "z", "required": True},
            },
            "leaves no port without TLS",
        ),
        (
            {
                "stow": {"enabled": True, "port": 8104},
                "peers": [
                    {
                        "name": "self",
                        "ae_title": "SELF",
                        "stow_url": "http://localhost:8104/dicom-web/studies",
                        "roles": ["destination"],
                    }
                ],
            },
            "results would loop",
        ),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, Any], words: str) -> None:
    peers = [{"name": name, "ae_title": name.upper(), "roles": ["source"]} for name in "ab"]
    with pytest.raises(ValidationError, match=words):
        NodeSettings(**{"peers": peers, **fields})


def test_more_parts_than_any_series_has_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stow_body, "_MAX_PARTS", 3)
    spool = Spool(tmp_path)
    reception = Reception(spool, None, GroupCommit(spool, None))  # type: ignore[arg-type]
    session = ReceptionSession(reception, calling_ae="A", called_ae="B", address="C")

    def part() -> DicomPart:
        return DicomPart(session, study_instance_uid="", refuses_others=False)

    made = stow_body.Body(BOUNDARY.encode(), session, part)
    with pytest.raises(stow_body.TooManyParts):
        made.feed(body_of([b"x"] * 4))
    assert [answer.status for answer in made.answers] == [0xC000] * 3
