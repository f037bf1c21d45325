"""What becomes of each malformed file: by the real listener, and by `m3lung analyze`.

    PYTHONPATH=.:tests python -m support.dispositions [DATA]

DATA is a folder with ``malformed`` in it: the fate of each single file is written to
``tests/system/malformed.json``, which a test compares. Prints the table of docs/reliability.md,
from that file where no DATA is named.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from typer.testing import CliRunner

from dicom_node.cli.app import assemble
from dicom_node.reception.sop_classes import DECODABLE_TRANSFER_SYNTAXES
from dicom_node.worker import model
from inference.analyzer import Analyzer
from support.listening import ListeningNode, RawSender
from support.small_bundle import make_small_bundle

__all__ = ["KEPT", "Fate", "fates", "summary"]

KEPT = Path(__file__).resolve().parents[1] / "system" / "malformed.json"
Fate = dict[str, str]
"""By door: ``own class``, ``as CT``, ``analyze``."""


def fates(corpus: Path, folder: Path, bundle: Path) -> dict[str, Fate]:
    """Send and read every file of `corpus`; return what became of each, by its name there.

    Parameters
    ----------
    folder : Path
        For what is written meanwhile.
    bundle : Path
        Of the model.
    """
    found: dict[str, Fate] = {}
    analyzer = Analyzer.load(bundle, threads=1)  # once for all files
    node = ListeningNode(folder / "node")
    node.start()
    patch = pytest.MonkeyPatch()
    patch.setattr(model, "load_analyzer", lambda *_: analyzer)
    try:
        for number, (name, path) in enumerate(_files(corpus)):
            door = _Door(node, path)
            found[name] = {
                "own class": door.own_class(),
                "as CT": door.as_ct(),
                "analyze": _analyze(path, folder / "out" / str(number), bundle),
            }
            assert node.is_running, name
            if number % 20 == 0:
                assert node.echo_seconds() < 5, name
    finally:
        patch.undo()
        node.stop()
    return found


def _files(corpus: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(corpus.rglob("*")):
        name = path.relative_to(corpus)
        if path.is_file() and len(name.parts) > 1:  # beside the folders lies their README
            yield str(name), path


class _Door:
    """The listener, and one file."""

    def __init__(self, node: ListeningNode, path: Path) -> None:
        self._node = node
        content = path.read_bytes()
        self._meta: Any = {}
        self._encoded = content
        if content[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00":
            self._encoded = content[144 + int.from_bytes(content[140:144], "little") :]
            self._meta = pydicom.filereader.read_file_meta_info(path)

    def own_class(self) -> str:
        """Send it as what it says it is."""
        sop_class = str(self._meta.get("MediaStorageSOPClassUID", ""))
        if not sop_class:
            return "not sent: no File Meta Information names its class"
        syntax = str(self._meta.get("TransferSyntaxUID", ExplicitVRLittleEndian))
        uid = str(self._meta.get("MediaStorageSOPInstanceUID", "1.2.3"))
        return self._sent(sop_class, syntax, uid)

    def as_ct(self) -> str:
        """Send it under CT Image Storage, so that its data set goes through the reader."""
        syntax = str(self._meta.get("TransferSyntaxUID", ExplicitVRLittleEndian))
        if syntax not in DECODABLE_TRANSFER_SYNTAXES:
            syntax = ExplicitVRLittleEndian
        uid = str(self._meta.get("MediaStorageSOPInstanceUID", "1.2.3"))
        return self._sent(CTImageStorage, syntax, uid)

    def _sent(self, sop_class: str, syntax: str, uid: str) -> str:
        before = self._rows()
        with RawSender(self._node.port, [(sop_class, [syntax])]) as sender:
            if not sender.accepted:
                return "presentation context not accepted"
            status, comment = sender.store(
                self._encoded, sop_class_uid=sop_class, sop_instance_uid=uid
            )
        if status:
            return f"0x{status:04X} {comment}"
        stored, conflicts = (now - was for now, was in zip(self._rows(), before, strict=True))
        if stored:
            return "0x0000 stored"
        if conflicts:
            return "0x0000 quarantined: another content under this SOP Instance UID"
        known = bool(self._node.sql("select 1 from instances where sop_instance_uid = ?", uid))
        return "0x0000 held already" if known else "0x0000 ignored: another storage class"

    def _rows(self) -> tuple[int, int]:
        [(instances,)] = self._node.sql("select count(*) from instances")
        [(conflicts,)] = self._node.sql("select count(*) from conflicts")
        return instances, conflicts


def _analyze(path: Path, out: Path, bundle: Path) -> str:
    """Read one file as `m3lung analyze --slice-level` does: its pixels are decoded, if it is CT."""
    out.parent.mkdir(parents=True, exist_ok=True)
    config = out.parent / "node.toml"
    config.write_text(
        f'state_dir = "{out.parent / "state"}"\n[analysis]\nthreads = 1\ndecoders = 1\n'
    )
    command = ["analyze", str(path), "--out", str(out), "--bundle", str(bundle), "--slice-level"]
    done = CliRunner().invoke(assemble(), [*command, "--config", str(config)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"CRASH {type(done.exception).__name__}"
    result = out / "result.json"
    if result.exists():
        document = json.loads(result.read_text())
        words = f"{document['disposition']}: {document['reason'] or 'read as a slice'}"
    else:
        words = done.stderr.replace(str(path), path.name).replace("\n", " ").strip()
    return f"exit {done.exit_code}, {words.replace(path.name, 'FILE')}"


def summary(found: dict[str, Fate]) -> str:
    """Return the table for people: how many files came to which end, and one of them by name."""
    lines = ["| door | disposition | files | for example |", "|---|---|---|---|"]
    for door in ("own class", "as CT", "analyze"):
        names: dict[str, list[str]] = defaultdict(list)
        for name, fate in found.items():
            names[_kind(fate[door])].append(Path(name).name)
        for disposition, files in sorted(names.items(), key=lambda item: -len(item[1])):
            lines.append(f"| {door} | {disposition} | {len(files)} | `{files[0]}` |")
    return "\n".join(lines)


def _kind(fate: str) -> str:
    """Return a fate without what is said of one class, or said twice."""
    words = fate.removesuffix(" m3lung: FILE holds no readable DICOM image")
    return re.sub(r"not CT images but .* Storage$", "not CT images but of another class", words)


def main() -> int:
    """Print the table; keep what it was made of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    options = parser.parse_args()
    if options.data is not None:
        KEPT.write_text(json.dumps(_made(options.data), indent=1, sort_keys=True) + "\n")
    sys.stdout.write(summary(json.loads(KEPT.read_text())) + "\n")
    return 0


def _made(data: Path) -> dict[str, Fate]:
    with tempfile.TemporaryDirectory(prefix="m3lung-malformed-") as scratch:
        bundle = make_small_bundle(Path(scratch) / "bundle")
        return fates(data / "malformed", Path(scratch), bundle)


if __name__ == "__main__":
    sys.exit(main())
