"""The spool: names, order of the steps on disk, refusal when the disk refuses."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.errors import OutOfResources
from dicom_node.rename import rename_to_new
from dicom_node.spool import IncomingFile, Spool, content_digest
from support.listening import ct_dataset, encode


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


def receive(spool: Spool, uid: str = "1.2.3", syntax: str = ExplicitVRLittleEndian) -> IncomingFile:
    return spool.receive(
        sop_class_uid=CTImageStorage, sop_instance_uid=uid, transfer_syntax_uid=syntax
    )


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_an_instance_is_a_dicom_file_named_by_its_content(spool: Spool) -> None:
    dataset = ct_dataset()
    encoded = encode(dataset)
    with receive(spool, dataset.SOPInstanceUID) as file:
        for start in range(0, len(encoded), 1000):
            file.write(memoryview(encoded)[start : start + 1000])
        stored = file.keep()
        file.make_durable()

    expected = hashlib.sha256(b"1.2.840.10008.1.2.1\0" + encoded).hexdigest()
    assert stored.digest == expected == content_digest(ExplicitVRLittleEndian, encoded)
    assert stored.path == Path("instances", expected[:2], f"{expected}.dcm")
    assert expected in spool
    read = pydicom.dcmread(spool.path_of(expected))
    assert read.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read == dataset
    content = spool.read(expected)
    assert content.endswith(encoded)
    assert stored.size_bytes == len(content)
    assert files(spool.incoming) == []
    assert spool.remove(expected)
    assert not spool.remove(expected)


def test_the_same_content_gives_the_same_file_and_another_syntax_another_name(spool: Spool) -> None:
    kept = []
    for syntax in (ExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        with receive(spool, syntax=syntax) as file:
            file.write(memoryview(b"same"))
            kept.append(file.keep())
    assert kept[0] == kept[1]
    assert kept[0].digest != kept[2].digest
    assert len(files(spool.root)) == 2


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "spool")
        spool.prepare()
        with receive(spool) as file:
            file.write(memoryview(b"x"))
            file.keep()
    finally:
        os.umask(before)
    for path in spool.root.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o600 if path.is_file() else 0o700), path
    assert stat.S_IMODE(spool.root.stat().st_mode) == 0o700


def test_what_is_not_kept_is_gone(spool: Spool) -> None:
    with receive(spool) as file:
        file.write(memoryview(b"half"))
    assert files(spool.root) == []


@pytest.mark.parametrize("known", [False, True], ids=["new", "there already"])
def test_steps_on_disk_come_in_the_order_that_survives_a_power_cut(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """What may be acknowledged is whole at every instant; what is new is durable at the end."""
    if known:
        with receive(spool) as file:
            file.write(memoryview(b"x"))
            file.keep()
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(f"fsync {kind}")
        fsync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        steps.append("rename over it")
        return rename(self, target)

    def noted_rename_to_new(source: Path, target: Path) -> bool:
        done = rename_to_new(source, target)
        steps.extend(["rename to new"] * done)
        return done

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    monkeypatch.setattr("dicom_node.spool.rename_to_new", noted_rename_to_new)
    with receive(spool) as file:
        file.write(memoryview(b"x"))
        file.keep()
        file.make_durable()
    at_the_end = ["fsync file", "fsync directory"]
    first = ["fsync file", "rename over it"] if known else ["rename to new"]
    assert steps == first + at_the_end


def test_no_file_is_taken_for_new_that_is_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    assert not rename_to_new(new, old)
    assert (old.read_text(), new.read_text()) == ("old", "new")
    assert rename_to_new(new, tmp_path / "third")
    assert not new.exists()
    with pytest.raises(FileNotFoundError):
        rename_to_new(new, tmp_path / "fourth")


def test_only_old_leftovers_go(spool: Spool) -> None:
    old, young = spool.incoming / "old.part", spool.incoming / "young.part"
    for path in (old, young):
        path.write_bytes(b"x")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    Spool(spool.root).prepare()
    assert not old.exists()
    assert young.exists()


@given(st.text(alphabet=st.sampled_from("0123456789abcdefABCDEF./\\~\0 \nä"), max_size=80))
def test_no_text_is_a_path_unless_it_is_a_digest(text: str) -> None:
    spool = Spool(Path("/nowhere"))
    try:
        path = spool.path_of(text)
    except ValueError:
        return
    assert path.parent.parent == Path("/nowhere/instances")
    assert path.name == f"{text}.dcm"


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=64))
def test_a_hostile_uid_never_becomes_a_name(uid: str) -> None:
    # The listener refuses such UIDs before; the spool does not rely on it.
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        spool = Spool(Path(name) / "spool")
        (spool.root / "incoming").mkdir(parents=True)
        with receive(spool, uid) as file:
            file.write(memoryview(b"x"))
            assert [path.parent for path in files(Path(name))] == [spool.incoming]


def test_below_the_free_space_limit_nothing_is_received(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", min_free_bytes=1 << 60)
    spool.prepare()
    with pytest.raises(OutOfResources, match="free space"):
        receive(spool)


def test_an_instance_above_the_limit_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_instance_bytes=1000)
    spool.prepare()
    with receive(spool) as file:
        file.write(memoryview(bytes(1000)))
        with pytest.raises(OutOfResources, match="larger"):
            file.write(memoryview(b"x"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_whatever_the_disk_says_is_out_of_resources(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "refused", "/secret/path")

    monkeypatch.setattr(os, call, refuse)

    def receive_one() -> None:
        with receive(spool) as file:
            file.write(memoryview(b"x"))
            file.keep()
            file.make_durable()

    with pytest.raises(OutOfResources) as caught:
        receive_one()
    assert errno.errorcode[number] in str(caught.value)
    assert "secret" not in str(caught.value)
    monkeypatch.undo()
    # What was not synced may keep its name, to which nothing refers; sent again it is replaced.
    assert len(files(spool.root / "instances")) == (call == "fsync")
    with receive(spool) as file:
        file.write(memoryview(b"x"))
        stored = file.keep()
        file.make_durable()
    assert spool.is_unaltered(str(stored.path), stored.digest)
    assert files(spool.root) == [spool.path_of(stored.digest)]


def test_a_real_size_limit_of_the_kernel(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dicom_node.spool import Spool\n"
        "from dicom_node.errors import OutOfResources\n"
        "spool = Spool(Path(sys.argv[1])); spool.prepare()\n"
        "file = spool.receive(sop_class_uid='1', sop_instance_uid='2', transfer_syntax_uid='3')\n"
        "try:\n    file.write(memoryview(bytes(200_000)))\n"
        "except OutOfResources as error:\n    print(error)\n"
        "file.discard(); print(len(list(Path(sys.argv[1]).rglob('*.part'))))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert result.stdout.split("\n")[:2] == ["the spool cannot be written (EFBIG)", "0"]
