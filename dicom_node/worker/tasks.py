"""The Celery side of the analysis worker: one task, one id."""

from __future__ import annotations

from celery import Celery

from dicom_node.broker import ANALYZE_TASK
from dicom_node.worker.analysis import AnalysisWorker

__all__ = ["register"]


def register(app: Celery, worker: AnalysisWorker) -> None:
    """Have `app` run analyses with `worker`."""

    @app.task(name=ANALYZE_TASK)
    def analyze(analysis_id: int) -> None:
        worker.run(analysis_id)
