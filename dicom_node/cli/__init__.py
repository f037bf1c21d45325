"""``m3lung``: the verbs. Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 unhealthy."""

from dicom_node.cli.app import main

__all__ = ["main"]
