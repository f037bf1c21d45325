"""``m3lung``: the verbs. Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 unhealthy."""

import os

# Read once, when numpy and torch are loaded, so set before anything can load them.
# OpenBLAS serves small matrices here: its threads would wait for each other longer than they work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# torch's threads share their cores with the listener, the PACS and whatever else runs there. By
# default they spin for long while they wait for each other, and on a busy machine each spin is time
# taken from the thread that is waited for; not spinning at all costs a tenth on an idle one.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from dicom_node.cli.app import main

__all__ = ["main"]
