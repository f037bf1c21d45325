"""``python -m dicom_node.stow --config node.toml``: the STOW-RS service alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.logs import configure
from dicom_node.settings import SettingsSource
from dicom_node.stow.service import run_stow


def main() -> int:
    """Run the service until SIGTERM; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.stow", description=__doc__)
    parser.add_argument("--config", type=Path, help="node.toml")
    arguments = parser.parse_args()
    try:
        settings = SettingsSource(arguments.config)
        configure(settings().log_level)
        run_stow(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except NodeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
