"""The node of the demo: ``m3lung serve`` on a configuration document of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomlkit

from dicom_node.demo.child import Child, wait_for_echo
from dicom_node.demo.local_pacs import CALLING_AE_TITLE, LocalPacs

__all__ = ["NODE_AE_TITLE", "start_node", "write_configuration"]

NODE_AE_TITLE = "M3LUNG"
_READY_S = 120.0


def write_configuration(
    path: Path, *, state_dir: Path, port: int, pacs: LocalPacs, bundle: Path | None
) -> None:
    """Write the demo's ``node.toml``: a scanner that sends, a PACS that gets the results.

    Parameters
    ----------
    port : int
        For the node's listener.
    bundle : Path or None
        Model bundle; None: the demonstration model.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("The demo's node. Try: m3lung status --config THIS_FILE"))
    document["ae_title"] = NODE_AE_TITLE
    document["state_dir"] = str(state_dir)
    document["listener"] = {"host": "127.0.0.1", "port": port}
    document["console"] = {"enabled": False}  # its port may be a running node's
    # Waits of a demo: a hospital's network pauses for longer than these.
    document["completion"] = {
        "settle_s": 1.5,
        "quiet_period_s": 15.0,
        "study_settle_s": 1.0,
        "query_interval_s": 2.0,
    }
    if bundle is not None:
        document["analysis"] = {"bundle": str(bundle.expanduser().absolute())}
    peers = tomlkit.aot()
    peers.append(
        tomlkit.item(
            {
                "name": "pacs",
                "ae_title": pacs.ae_title,
                "host": "127.0.0.1",
                "port": pacs.port,
                "roles": ["source", "destination"],
                "query": True,
            }
        )
    )
    peers.append(
        tomlkit.item({"name": "scanner", "ae_title": CALLING_AE_TITLE, "roles": ["source"]})
    )
    document["peers"] = peers
    path.write_text(tomlkit.dumps(document), encoding="utf-8")


@contextmanager
def start_node(config: Path, log: Path, port: int) -> Iterator[Child]:
    """Start the node of `config` and wait until it answers C-ECHO; end it on leaving.

    Raises
    ------
    ChildFailed
        It does not come up.
    """
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)]
    with Child("the node", command, log) as child:
        wait_for_echo(child, CALLING_AE_TITLE, NODE_AE_TITLE, port, _READY_S)
        yield child
