"""``python -m dicom_node.listener --config node.toml``: the listener alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dicom_node.errors import ConfigurationError
from dicom_node.listener.service import run_listener
from dicom_node.logs import configure
from dicom_node.settings import SettingsSource


def main() -> int:
    """Run the listener until SIGTERM; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.listener", description=__doc__)
    parser.add_argument("--config", type=Path, help="node.toml")
    arguments = parser.parse_args()
    try:
        settings = SettingsSource(arguments.config)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure(settings().log_level)
    return run_listener(settings)


if __name__ == "__main__":
    sys.exit(main())
