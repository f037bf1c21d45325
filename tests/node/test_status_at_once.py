"""``m3lung status`` answered by the running node: the same words, in a tenth of the time."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from dicom_node.cli import worklist
from dicom_node.cli.status_desk import status_desk
from dicom_node.doorbell import address, ask_status, question_of
from support.node import Node
from support.synthetic_ct import synthetic_series

Answered = subprocess.CompletedProcess[str]


def status(config: Path, *arguments: str, **environment: str) -> Answered:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", "status", "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    made = Node(folder, small_bundle)
    with made:
        made.start("listen", "reconcile")
        series = synthetic_series(folder / "ct", slices=20, accession_number="A1", patient_id="P1")
        assert made.send(series.paths).returncode == 0
        made.wait_for_state(
            series.series_instance_uid, lambda s: s.analysis_state == "waiting", "selected"
        )
        made.wait_for(lambda: rings(made), "the desk is open", 60)
        yield made


def rings(node: Node) -> bool:
    where = address(str(node.config), os.environ)
    assert where is not None
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(where) == 0


QUESTIONS = [
    ["--accession", "A1"],
    ["-a", "A1", "--json"],
    ["--patient=P1", "--limit", "1"],
    ["--uid", "1.2.3"],
    [],
]


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_the_running_node_says_what_the_command_would(node: Node, question: list[str]) -> None:
    # An own word in the environment is another configuration: nobody answers, it looks itself.
    itself = status(node.config, *question, M3LUNG_ANALYSIS__LEASE_S="119")
    asked = ask_status(["--config", str(node.config), *question])
    assert asked is not None
    assert without_age(asked[1]) == without_age(itself.stdout)
    assert asked[0] == itself.returncode
    answered = status(node.config, *question)
    assert (answered.returncode, answered.stderr) == (asked[0], "")
    assert without_age(answered.stdout) == without_age(itself.stdout)


def without_age(text: str) -> str:
    """What the two cannot agree about, since they say it one after the other."""
    return re.sub(r'"oldest_waiting_analysis_s": [0-9.]+', "", text)


def test_the_answer_is_there_in_a_tenth_of_a_second(node: Node) -> None:
    """As a whole process, beyond an interpreter that does nothing; the best of many, for load."""

    def seconds(command: Sequence[str]) -> float:
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - started

    asking = [sys.executable, "-m", "dicom_node", "status", "-c", str(node.config), "-a", "A1"]
    pairs = [(seconds(asking), seconds([sys.executable, "-c", "pass"])) for _ in range(15)]
    asked, idle = (min(each) for each in zip(*pairs, strict=True))
    assert asked - idle < 0.1


def test_nobody_answers_for_a_node_that_has_stopped(tmp_path: Path, small_bundle: Path) -> None:
    with Node(tmp_path, small_bundle) as made:
        made.start("reconcile")
        made.wait_for(lambda: rings(made), "the desk is open", 30)
        made.kill("reconcile")
        assert not rings(made)
        told = status(made.config, "--accession", "A1")
        assert (told.returncode, told.stdout) == (1, "No such series has arrived here.\n")


def test_only_the_first_of_two_answers_and_the_other_works_on(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.touch()
    with status_desk(str(config), lambda _: (0, "first")):
        with status_desk(str(config), lambda _: (0, "second")):
            assert ask_status(["-c", str(config)]) == (0, "first")
        assert ask_status(["-c", str(config)]) == (0, "first")
    assert ask_status(["-c", str(config)]) is None


def test_a_desk_that_cannot_say_leaves_it_to_the_command(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.touch()
    asked: list[dict[str, Any]] = []

    def answer(question: dict[str, Any]) -> tuple[int, str]:
        asked.append(question)
        if len(asked) == 1:
            raise RuntimeError("the ledger is away")
        return 0, "here"

    with status_desk(str(config), answer):
        where = address(str(config), os.environ)
        assert where is not None
        with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as loud:
            for connection in (silent, loud):
                connection.connect(where)
            loud.sendall(b"nonsense")
            loud.shutdown(socket.SHUT_WR)
            assert ask_status(["-c", str(config)]) is None
        assert ask_status(["-c", str(config)]) == (0, "here")
    assert len(asked) == 2


def test_a_node_does_not_wait_for_a_question_when_it_ends(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.touch()
    before = threading.active_count()
    with status_desk(str(config), lambda _: (0, "")):
        pass
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--accession"], ["--accession", "--json"], ["--limit", "0"], ["--limit", "x"],
     ["A1"], ["--nonsense", "1"], ["-a=1"], ["--json=1"]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_parser(arguments: list[str]) -> None:
    assert question_of(arguments) is None


def test_every_option_of_the_verb_is_known() -> None:
    app = typer.Typer()
    app.command()(worklist.status)
    command = typer.main.get_command(app)
    for parameter in command.params:
        if parameter.name in ("install_completion", "show_completion"):
            continue
        for name in parameter.opts:
            question = question_of([name] if name == "--json" else [name, "7"])
            assert question is not None, name
            assert parameter.name in question, name
            assert str(question[parameter.name]) in ("7", "True"), name


def test_another_document_or_environment_is_another_node(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.touch()
    other.touch()
    (tmp_path / "link.toml").symlink_to(one)
    here = address(str(one), {})
    assert here == address(str(tmp_path / "link.toml"), {"M3LUNG_CRASH_AT": "x", "HOME": "y"})
    assert here == address(None, {"M3LUNG_CONFIG": str(one)})
    assert len({here, address(str(other), {}), address(str(one), {"M3LUNG_AE_TITLE": "A"})}) == 3
    assert address(str(tmp_path / "none.toml"), {}) is None


def test_the_answer_is_as_wide_as_the_terminal(node: Node) -> None:
    asked = ["--config", str(node.config), "--accession", "A1"]
    narrow = status(node.config, "--accession", "A1", COLUMNS="50")
    assert max(map(len, narrow.stdout.splitlines())) <= 50
    assert ask_status(asked) is not None
    assert json.loads(status(node.config, "-a", "A1", "--json").stdout)["series"][0]
