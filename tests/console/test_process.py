"""``m3lung console`` as a process: starts, ends when told to, says what is wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from dicom_node.ledger.console_users import ConsoleRole
from support.console_node import PASSWORD, ConsoleNode, csrf_of
from support.ports import free_port


@contextmanager
def started(node: ConsoleNode) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node", "console", "--config", str(node.config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def port_of(node: ConsoleNode, process: subprocess.Popen[str]) -> int:
    path = node.source().root / "console.port"
    deadline = time.monotonic() + 120
    while not path.is_file() or not path.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return int(path.read_text())


def test_it_answers_and_ends_in_order_with_a_stream_open(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path, console={"port": 0})
    node.user("ada", ConsoleRole.ADMIN)
    with started(node) as process:
        url = f"http://127.0.0.1:{port_of(node, process)}"
        with httpx.Client(base_url=url, timeout=60) as client:
            token = csrf_of(client.get("/login").text)
            form = {"csrf": token, "name": "ada", "password": PASSWORD}
            assert client.post("/login", data=form).status_code == 303
            heard = threading.Event()
            ended = threading.Event()

            def listen() -> None:
                with client.stream("GET", "/live") as answer:
                    for _ in answer.iter_text():
                        heard.set()
                ended.set()

            thread = threading.Thread(target=listen)
            thread.start()
            assert heard.wait(60)
            began = time.monotonic()
            process.terminate()
            assert process.wait(60) == 0
            assert time.monotonic() - began < 20
            assert ended.wait(20)
            thread.join()
    trail = "".join(path.read_text() for path in (tmp_path / "state/audit").glob("*.jsonl"))
    assert "Application Start" in trail
    assert "Application Stop" in trail
    assert not (node.source().root / "console.port").exists()
    node.ledger.close()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    import socket

    with socket.socket() as other:
        port = free_port()
        other.bind(("127.0.0.1", port))
        other.listen()
        node = ConsoleNode(tmp_path, console={"port": port})
        with started(node) as process:
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert f"console: 127.0.0.1:{port}: Address already in use" in errors
        assert "Traceback" not in errors
    node.ledger.close()


def test_it_loads_no_torch_and_no_broker() -> None:
    script = (
        "import sys, dicom_node.console.server\n"
        "found = {'torch', 'torchvision', 'celery', 'cv2', 'openvino'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
