"""Rules on a real node: urgent overtakes, a shadow goes nowhere, a quiet destination waits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pydicom
import pytest

from support.node import Node
from support.orthanc import Orthanc
from support.synthetic_ct import SyntheticSeries, synthetic_series

SECTIONS = """
[[rules]]
name = "emergency"
procedure = ["*emergency*"]
priority = "urgent"

[[rules]]
name = "trial"
procedure = ["*trial*"]
shadow = true
"""


def series(folder: Path, number: int, study: str) -> SyntheticSeries:
    made = synthetic_series(
        folder, slices=24, matrix=128, lesion=True, seed=number, study=f"{number}"
    )
    for path in made.paths:
        dataset = pydicom.dcmread(path)
        dataset.StudyDescription = study
        dataset.save_as(path)
    return made


def hours_around(now: float) -> str:
    """Return quiet hours that began an hour ago and last for three more."""
    begin, end = (time.localtime(now + hours * 3600) for hours in (-1, 3))
    return f"{begin.tm_hour:02d}:{begin.tm_min:02d}-{end.tm_hour:02d}:{end.tm_min:02d}"


@pytest.mark.peer("orthanc", "dcmtk")
@pytest.mark.timeout(1800)
def test_urgent_overtakes_a_shadow_stays_and_a_quiet_destination_waits(
    tmp_path: Path, small_bundle: Path, orthanc: Orthanc
) -> None:
    archive = Orthanc(tmp_path / "archive")
    archive.start()
    quiet = f'quiet_hours = ["{hours_around(time.time())}"]'
    another = (
        f'[[peers]]\nname = "archive"\nae_title = "{archive.ae_title}"\nhost = "127.0.0.1"\n'
        f'port = {archive.dicom_port}\nroles = ["destination"]\n{quiet}\n'
    )
    sent = {
        name: series(tmp_path / name, number, f"CT chest, {name}")
        for number, name in enumerate(("routine", "trial", "emergency"))
    }
    uids = {name: made.series_instance_uid for name, made in sent.items()}
    try:
        with Node(
            tmp_path / "node", small_bundle, pacs=[orthanc], sections=another + SECTIONS
        ) as node:
            node.start("listen", "reconcile", "deliver")
            for name, made in sent.items():
                assert node.send(made.paths).returncode == 0
                node.wait_for_state(
                    uids[name], lambda s: s.analysis_state == "waiting", f"{name} is queued", 300
                )
            found = {name: node.series(uid) for name, uid in uids.items()}
            assert {name: item.rule for name, item in found.items() if item} == {
                "routine": "default", "trial": "trial", "emergency": "emergency",
            }  # fmt: skip
            assert {name: item.queue_position for name, item in found.items() if item} == {
                "emergency": 1, "routine": 2, "trial": 3,
            }  # fmt: skip
            told = json.loads(node.m3lung("rules", "test", "--json").stdout)
            assert told["rules"] == {"emergency": 1, "trial": 1, "default": 1}

            node.start("work")
            for name, uid in uids.items():
                node.wait_for_state(
                    uid, lambda s: s.analysis_state == "done", f"{name} is read", 900
                )
            ended = {name: node.series(uid) for name, uid in uids.items()}
            order = sorted(ended, key=lambda name: ended[name].finished_at)  # type: ignore[union-attr,return-value,arg-type]
            assert order == ["emergency", "routine", "trial"]

            # The first destination gets what is no shadow; the other one is left alone.
            def states(name: str) -> dict[str, set[str]]:
                item = node.series(uids[name])
                assert item is not None
                return {delivery.destination: set(delivery.states) for delivery in item.deliveries}

            for name in ("emergency", "routine"):
                node.wait_for(
                    lambda name=name: states(name)["pacs"] == {"sent"}, f"{name} is delivered", 600
                )  # fmt: skip
                assert states(name)["archive"] == {"waiting"}
            held = orthanc.instance_count()
            time.sleep(8)  # longer than a nudge is repeated
            assert archive.instance_count() == 0
            shadow = node.series(uids["trial"])
            assert shadow is not None
            assert (shadow.shadow, shadow.deliveries) == (True, ())
            assert orthanc.instance_count() == held
            results = node.directory / "state" / "results"
            [document] = [
                read
                for read in map(json.loads, (p.read_text() for p in results.rglob("result.json")))
                if read["shadow"]
            ]
            assert (document["rule"], document["objects"] != []) == ("trial", True)
            told = json.loads(node.m3lung("status", "--json").stdout)
            words = {item["series_instance_uid"]: item["words"] for item in told["series"]}
            assert words[uids["trial"]] == "analysed in shadow; nothing is delivered"
            assert "waits for the end of the quiet hours of archive" in words[uids["routine"]]

            # Its hours end: here, because somebody takes them out of the document.
            node.config.write_text(node.config.read_text().replace(quiet, ""))
            for name in ("emergency", "routine"):
                node.wait_until_delivered(uids[name], 600)
            assert archive.instance_count() == held
    finally:
        archive.stop()
