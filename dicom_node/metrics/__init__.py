"""What the node tells machines that watch it: metrics for Prometheus, and health that is progress.

One exporter reads the ledger; no other process has an HTTP port for this. Nothing here names a
patient, a study or a UID, and every label has a bounded set of values.
"""

from __future__ import annotations

from dicom_node.metrics.app import MetricsApp
from dicom_node.metrics.server import serve_metrics
from dicom_node.metrics.totals import Totals

__all__ = ["MetricsApp", "Totals", "serve_metrics"]
