"""``python -m dicom_node.listener --config node.toml``: the listener alone."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import structlog

from dicom_node.errors import ConfigurationError
from dicom_node.listener.service import run_listener
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
    level = getattr(logging, settings().log_level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    return run_listener(settings)


if __name__ == "__main__":
    sys.exit(main())
