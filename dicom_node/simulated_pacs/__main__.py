"""``python -m dicom_node.simulated_pacs --port 11113 --folder /tmp/pacs``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from dicom_node.simulated_pacs.server import SimulatedPacs


def main() -> None:
    """Run until SIGTERM or SIGINT; the first line on stdout says where it listens."""
    parser = argparse.ArgumentParser(prog="dicom_node.simulated_pacs", description=__doc__)
    parser.add_argument("--port", type=int, default=11113, help="0: any free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ae-title", default="SIMPACS")
    parser.add_argument("--folder", type=Path, required=True, help="where instances are kept")
    options = parser.parse_args()
    # Blocked before the server's threads start, so that they inherit it and sigwait sees it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with SimulatedPacs(
        options.folder, ae_title=options.ae_title, host=options.host, port=options.port
    ) as pacs:
        sys.stdout.write(f"{pacs.ae_title} listens on {pacs.host}:{pacs.port}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
