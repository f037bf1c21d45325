"""The listener through the wire: who may call, what is stored, what is answered."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    LegacyConvertedEnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_node.listener.contexts import acceptable_contexts
from dicom_node.reception.sop_classes import DECODABLE_TRANSFER_SYNTAXES
from dicom_node.spool import content_digest
from support.listening import (
    Aborted,
    ListeningNode,
    RawSender,
    Rejected,
    ct_dataset,
    encode,
    run_sender,
)

CT = CTImageStorage
SUCCESS, RESOURCES, MISMATCH, CANNOT, UNSUPPORTED = 0x0000, 0xA700, 0xA900, 0xC000, 0x0122


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListeningNode]:
    listener = ListeningNode(tmp_path_factory.mktemp("listener"))
    listener.start()
    yield listener
    listener.stop()


def assert_stored(node: ListeningNode, encoded: bytes, syntax: str, uid: str) -> None:
    digest, path = node.instances()[uid]
    assert digest == content_digest(syntax, encoded)
    content = (node.spool / path).read_bytes()
    assert content.endswith(encoded)
    assert pydicom.dcmread(node.spool / path, stop_before_pixels=True).SOPInstanceUID == uid


# -- who may call ----------------------------------------------------------------------------------


def test_echo(node: ListeningNode) -> None:
    assert node.echo_seconds() < 2
    # An echo needs no row.
    before = node.sql("select count(*) from associations")
    node.echo_seconds()
    assert node.sql("select count(*) from associations") == before


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("STRANGER", "M3LUNG", (1, 1, 3)),
        ("sender", "M3LUNG", (1, 1, 3)),
        ("<script>", "M3LUNG", (1, 1, 3)),
        ("%s%n{}", "M3LUNG", (1, 1, 3)),
        ("SENDER", "OTHER", (1, 1, 7)),
        ("STRANGER", "OTHER", (1, 1, 7)),
    ],
)
def test_unknown_titles_are_rejected(
    node: ListeningNode, calling: str, called: str, reason: tuple[int, int, int]
) -> None:
    with pytest.raises(Rejected) as caught:
        node.sender(calling=calling, called=called)
    assert caught.value.reason == reason


def test_padded_titles_are_the_same_titles(node: ListeningNode) -> None:
    with node.sender(calling=" SENDER", called="M3LUNG ") as sender:
        assert sender.accepted


def test_peers_are_taken_over_while_running(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "live", callers=["FIRST"])
    node.start()
    try:
        with node.sender(calling="FIRST"):
            pass
        with pytest.raises(Rejected):
            node.sender(calling="SECOND")
        node.write_config(["SECOND"])
        with node.sender(calling="SECOND"):
            pass
        with pytest.raises(Rejected):
            node.sender(calling="FIRST")
        node.config.write_text("this is [not toml")
        with node.sender(calling="SECOND"):
            pass
        node.write_config([], accept_unknown_callers=True, called_ae_titles=[])
        with node.sender(calling="ANYBODY"):
            pass
    finally:
        node.stop()


def test_full_disk_is_temporary_congestion(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "full", min_free_bytes=1 << 60)
    node.start()
    try:
        with pytest.raises(Rejected) as caught:
            node.sender()
        assert caught.value.reason == (2, 3, 1)
    finally:
        node.stop()


# -- what is negotiated ----------------------------------------------------------------------------


def test_every_offered_syntax_has_a_decoder() -> None:
    missing = [
        uid
        for uid in DECODABLE_TRANSFER_SYNTAXES
        if not get_decoder(pydicom.uid.UID(uid)).is_available
    ]
    assert missing == []


def test_deflated_is_never_accepted() -> None:
    for mode in ("ignore", "refuse"):
        for context in acceptable_contexts(mode):
            assert not any(syntax.is_deflated for syntax in context.transfer_syntax)


def test_contexts(node: ListeningNode) -> None:
    proposals = [
        (CT, [DeflatedExplicitVRLittleEndian]),
        (CT, [ImplicitVRLittleEndian, JPEG2000Lossless, ExplicitVRLittleEndian]),
        (EnhancedCTImageStorage, [JPEG2000Lossless]),
        (LegacyConvertedEnhancedCTImageStorage, [ExplicitVRBigEndian]),
        (EnhancedSRStorage, [ImplicitVRLittleEndian]),
        ("1.2.840.10008.5.1.4.1.2.2.1", [ImplicitVRLittleEndian]),  # Study Root FIND
        ("1.2.3.4.5", [ImplicitVRLittleEndian]),
    ]
    with node.sender(proposals) as sender:
        assert sender.accepted == {
            3: ExplicitVRLittleEndian,  # what needs no decoder, where we may choose
            5: JPEG2000Lossless,
            7: ExplicitVRBigEndian,
            9: ImplicitVRLittleEndian,
        }
        assert sender.max_pdu == 262144


def test_128_contexts_at_once(node: ListeningNode) -> None:
    proposals = [
        (str(context.abstract_syntax), list(DECODABLE_TRANSFER_SYNTAXES))
        for context in AllStoragePresentationContexts[:128]
    ]
    with node.sender(proposals) as sender:
        assert len(sender.accepted) == 128


# -- what is stored --------------------------------------------------------------------------------


@pytest.mark.parametrize("fragment", [1, 7, 1000, 60000])
def test_stored_bytes_are_the_sent_bytes(node: ListeningNode, fragment: int) -> None:
    dataset = ct_dataset(size=16)
    encoded = encode(dataset)
    with node.sender() as sender:
        status, comment = sender.store(
            encoded, sop_instance_uid=dataset.SOPInstanceUID, fragment=fragment
        )
    assert (status, comment) == (SUCCESS, "")
    assert_stored(node, encoded, ExplicitVRLittleEndian, dataset.SOPInstanceUID)


def test_association_is_recorded_with_its_end(node: ListeningNode) -> None:
    with node.sender() as sender:
        assert sender.store_dataset(ct_dataset()) == SUCCESS
    sender = node.sender()
    assert sender.store_dataset(ct_dataset()) == SUCCESS
    sender.socket.close()
    deadline = time.monotonic() + 5
    query = (
        "select calling_ae, called_ae, address, outcome from associations order by id desc limit 2"
    )
    while None in [row[3] for row in node.sql(query)] and time.monotonic() < deadline:
        time.sleep(0.05)
    who = ("SENDER", "M3LUNG", "127.0.0.1")
    assert node.sql(query) == [(*who, "aborted"), (*who, "released")]


def test_duplicates_and_conflicts_succeed(node: ListeningNode) -> None:
    dataset = ct_dataset()
    with node.sender() as sender:
        assert sender.store_dataset(dataset) == SUCCESS
        first = node.instances()[dataset.SOPInstanceUID]
        assert sender.store_dataset(dataset) == SUCCESS
        dataset.PixelData = bytes(len(dataset.PixelData))
        assert sender.store_dataset(dataset) == SUCCESS
    assert node.instances()[dataset.SOPInstanceUID] == first
    conflicts = node.sql("select path from conflicts")
    assert len(conflicts) == 1
    assert (node.spool / conflicts[0][0]).is_file()


def test_own_output_is_taken_and_not_stored_as_input(node: ListeningNode) -> None:
    dataset = ct_dataset(ManufacturerModelName="m3lung-node")
    with node.sender() as sender:
        assert sender.store_dataset(dataset) == SUCCESS
    assert dataset.SOPInstanceUID not in node.instances()


def test_other_storage_is_taken_ignored_and_counted(node: ListeningNode) -> None:
    before = set(node.spool.rglob("*.dcm"))
    sr = ct_dataset(SOPClassUID=EnhancedSRStorage)
    with node.sender([(EnhancedSRStorage, [ExplicitVRLittleEndian])]) as sender:
        for _ in range(3):
            status = sender.store(
                encode(sr), sop_class_uid=EnhancedSRStorage, sop_instance_uid=sr.SOPInstanceUID
            )
            assert status == (SUCCESS, "")
    time.sleep(0.2)
    ignored = node.sql("select ignored from associations order by id desc limit 1")[0][0]
    assert ignored == f'{{"{EnhancedSRStorage}": 3}}'
    assert set(node.spool.rglob("*.dcm")) == before


def test_other_storage_is_refused_by_setting(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "refuse", other_storage="refuse")
    node.start()
    try:
        contexts = [(CT, [ExplicitVRLittleEndian]), (EnhancedSRStorage, [ExplicitVRLittleEndian])]
        with node.sender(contexts) as sender:
            assert sender.accepted == {1: ExplicitVRLittleEndian}
            status = sender.store_dataset(
                ct_dataset(SOPClassUID=EnhancedSRStorage), sop_class_uid=EnhancedSRStorage
            )
            assert status == UNSUPPORTED
            assert sender.store_dataset(ct_dataset()) == SUCCESS
    finally:
        node.stop()


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", ["../../x", "", "/etc/passwd", "1.2.3/../../x", "1" * 65, "1.02"])
def test_illegal_uids_in_the_command_are_answered(node: ListeningNode, uid: str) -> None:
    with node.sender() as sender:
        status, comment = sender.store(encode(ct_dataset()), sop_instance_uid=uid)
        assert status == MISMATCH
        assert comment == "Affected SOP Instance UID is missing or illegal"
        assert sender.store_dataset(ct_dataset()) == SUCCESS
    assert [path for path in node.directory.rglob("*") if path.name in ("x", "passwd")] == []


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        (keyword, value)
        for keyword in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")
        for value in (None, "", "../../x")
    ]
    + [("SOPInstanceUID", "1.2.999"), ("SOPClassUID", EnhancedCTImageStorage)],
)
def test_dataset_that_disagrees(node: ListeningNode, keyword: str, value: str | None) -> None:
    dataset = ct_dataset()
    uid = str(dataset.SOPInstanceUID)
    if value is None:
        del dataset[keyword]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset[keyword].value = value
    encoded = encode(dataset)
    with node.sender() as sender:
        status, comment = sender.store(encoded, sop_instance_uid=uid)
        assert status == MISMATCH
        assert "UID" in comment
        assert uid not in comment
    assert uid not in node.instances()


def test_mismatched_context_is_sop_class_not_supported(node: ListeningNode) -> None:
    contexts = [(CT, [ExplicitVRLittleEndian]), (EnhancedCTImageStorage, [ExplicitVRLittleEndian])]
    with node.sender(contexts) as sender:
        assert sender.store_dataset(ct_dataset(), context_id=3) == UNSUPPORTED
        assert sender.store_dataset(ct_dataset(), context_id=1) == SUCCESS


def test_truncated_dataset_is_not_understood(node: ListeningNode) -> None:
    dataset = ct_dataset()
    with node.sender() as sender:
        status, _ = sender.store(encode(dataset)[:-100], sop_instance_uid=dataset.SOPInstanceUID)
        assert status == CANNOT
        assert sender.store(b"", sop_instance_uid="1.2.3")[0] == MISMATCH
        assert sender.store_dataset(dataset) == SUCCESS
    assert list((node.spool / "incoming").iterdir()) == []


def test_other_operations_are_answered(node: ListeningNode) -> None:
    from support.listening import command

    with node.sender() as sender:
        sender.send_values(1, True, command(0x0020, 9, CT, None, True))  # C-FIND-RQ
        sender.send_values(1, False, b"\0" * 100)
        assert int.from_bytes(sender.response()[0x0900], "little") == 0x0211
        assert sender.store_dataset(ct_dataset()) == SUCCESS


def test_too_large_an_instance_is_out_of_resources(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "small", max_instance_bytes=1 << 20)
    node.start()
    try:
        with node.sender() as sender:
            assert sender.store_dataset(ct_dataset(size=1024)) == RESOURCES
            assert sender.store_dataset(ct_dataset(size=64)) == SUCCESS
        assert list((node.spool / "incoming").iterdir()) == []
    finally:
        node.stop()


def test_no_patient_data_in_the_log(node: ListeningNode) -> None:
    with node.sender() as sender:
        assert sender.store_dataset(ct_dataset()) == SUCCESS
        assert sender.store_dataset(ct_dataset(), sop_instance_uid="1.2.3") == MISMATCH
    log = node.logged()
    assert "instance_refused" in log
    assert "Canary" not in log
    assert "CANARY" not in log


# -- real senders, real files ----------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.peer("dcmtk")
def test_dcmtk_senders(node: ListeningNode, real_data: Path) -> None:
    folder = real_data / "covid-ct-md/covid/P001"
    slices = sorted(folder.iterdir())[:12]
    for sender in (["storescu", "-xs"], ["dcmsend"]):
        output = run_sender(*sender, "-aec", "M3LUNG", "127.0.0.1", node.port, *slices)
        assert output.startswith("0\n"), output
    held = node.instances()
    for path in slices:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        digest, name = held[dataset.SOPInstanceUID]
        # DCMTK encodes anew what it sends: the same attributes, not always the same bytes.
        stored = pydicom.dcmread(node.spool / name)
        assert stored == pydicom.dcmread(path)
        content = (node.spool / name).read_bytes()
        encoded = content[144 + int.from_bytes(content[140:144], "little") :]
        assert digest == content_digest(dataset.file_meta.TransferSyntaxUID, encoded)


@pytest.mark.real_data
def test_every_transfer_syntax_of_a_real_slice(node: ListeningNode, real_data: Path) -> None:
    offered = 0
    for path in sorted((real_data / "cornerstone-transfer-syntaxes").glob("*.dcm")):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = dataset.file_meta.TransferSyntaxUID
        content = path.read_bytes()
        encoded = content[144 + int.from_bytes(content[140:144], "little") :]
        with node.sender([(dataset.SOPClassUID, [syntax])]) as sender:
            assert bool(sender.accepted) == (syntax in DECODABLE_TRANSFER_SYNTAXES), path
            if sender.accepted:
                offered += 1
                status = sender.store(
                    encoded,
                    sop_class_uid=dataset.SOPClassUID,
                    sop_instance_uid=dataset.SOPInstanceUID,
                )
                assert status == (SUCCESS, ""), path
    assert offered >= 13


@pytest.mark.real_data
def test_pynetdicom_sender(node: ListeningNode, real_data: Path) -> None:
    entity = AE("SENDER")
    entity.add_requested_context(CT, ExplicitVRLittleEndian)
    dataset = pydicom.dcmread(
        real_data / "cornerstone-transfer-syntaxes"
        "/CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm"
    )
    association = entity.associate("127.0.0.1", node.port, ae_title="M3LUNG")
    assert association.is_established
    status = association.send_c_store(dataset)
    association.release()
    assert status.Status == SUCCESS
    assert association.is_released


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_malformed_file_is_answered(node: ListeningNode, real_data: Path) -> None:
    """Each is sent under CT, so that its content really goes through the reader."""
    answers: dict[int, int] = {}
    for path in sorted((real_data / "malformed").rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        encoded, uid, syntax = content, "1.2.3", ExplicitVRLittleEndian
        if content[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00":
            encoded = content[144 + int.from_bytes(content[140:144], "little") :]
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            uid = str(dataset.get("SOPInstanceUID", "1.2.3"))
            named = dataset.file_meta.get("TransferSyntaxUID", syntax)
            syntax = named if named in DECODABLE_TRANSFER_SYNTAXES else syntax
        with node.sender([(CT, [syntax])]) as sender:
            status, comment = sender.store(encoded, sop_instance_uid=uid)
            answers[status] = answers.get(status, 0) + 1
            assert status in (SUCCESS, MISMATCH, CANNOT), path
            assert bool(comment) == (status != SUCCESS)
    assert sum(answers.values()) > 200
    assert set(answers) == {SUCCESS, MISMATCH, CANNOT}
    with node.sender() as sender:
        assert sender.store_dataset(ct_dataset()) == SUCCESS


@pytest.mark.real_data
def test_every_malformed_file_as_what_it_is(node: ListeningNode, real_data: Path) -> None:
    """Sent under its own SOP class: other storage is ignored with success."""
    ignored = 0
    for path in sorted((real_data / "malformed").rglob("*.dcm")):
        content = path.read_bytes()
        if content[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
            continue
        meta = pydicom.filereader.read_file_meta_info(path)
        sop_class = str(meta.get("MediaStorageSOPClassUID", ""))
        syntax = str(meta.get("TransferSyntaxUID", ExplicitVRLittleEndian))
        if not sop_class or sop_class == CT:
            continue
        with node.sender([(sop_class, [syntax])]) as sender:
            if not sender.accepted:
                continue
            status, _ = sender.store(
                content[144 + int.from_bytes(content[140:144], "little") :],
                sop_class_uid=sop_class,
                sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID", "1.2.3")),
            )
            assert status in (SUCCESS, MISMATCH), path
            ignored += status == SUCCESS
    assert ignored > 50
    assert SecondaryCaptureImageStorage not in str(node.sql("select header from instances"))


def test_a_purged_image_is_held_when_it_comes_again(node: ListeningNode) -> None:
    dataset = ct_dataset(series="2.25.4712")
    with node.sender() as sender:
        assert sender.store_dataset(dataset) == SUCCESS
    _, path = node.instances()[str(dataset.SOPInstanceUID)]
    with contextlib.closing(sqlite3.connect(node.state / "ledger.sqlite3", timeout=10)) as db, db:
        db.execute("update instances set purged_at = 1 where path = ?", (path,))
    (node.spool / path).unlink()
    with node.sender() as sender:
        assert sender.store_dataset(dataset) == SUCCESS
    assert_stored(node, encode(dataset), ExplicitVRLittleEndian, str(dataset.SOPInstanceUID))
    assert node.sql("select purged_at from instances where path = ?", path) == [(None,)]
    [(revisions,)] = node.sql(
        "select count(*) from revisions join series on series.id = series_id "
        "where series_instance_uid = '2.25.4712'"
    )
    assert revisions == 1  # no late slice: nothing is read again


# -- start and stop --------------------------------------------------------------------------------


@pytest.mark.slow
def test_sigterm_lets_an_association_finish(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "stop")
    node.start()
    try:
        busy, idle = node.sender(), node.sender()
        os.kill(node.pid, signal.SIGTERM)
        time.sleep(0.6)
        with pytest.raises((ConnectionError, Aborted)):
            RawSender(node.port)
        assert busy.store_dataset(ct_dataset()) == SUCCESS
        busy.release()
        busy.socket.close()
        started = time.monotonic()
        kind, _ = idle.read_pdu()
        idle.socket.close()
        assert kind == 7  # A-ABORT, after the grace period
        assert time.monotonic() - started < 12
        assert node.wait_for_death() == 0
    finally:
        node.stop()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = ListeningNode(tmp_path / "taken", port=taken.getsockname()[1])
        with pytest.raises(RuntimeError, match="ended with 1"):
            node.start()
    assert "Address already in use" in node.logged()
    assert "Traceback" not in node.logged()
