"""The Celery side of the analysis worker: two tasks, one id each."""

from __future__ import annotations

from celery import Celery

from dicom_node.broker import ANALYZE_TASK, SPECULATE_TASK
from dicom_node.worker.analysis import AnalysisWorker
from dicom_node.worker.speculation import Speculation

__all__ = ["register"]


def register(app: Celery, worker: AnalysisWorker, speculation: Speculation) -> None:
    """Have `app` run analyses with `worker`, and read ahead where none waits."""

    @app.task(name=ANALYZE_TASK)
    def analyze(_analysis_id: int) -> None:
        worker.run()

    @app.task(name=SPECULATE_TASK)
    def speculate(revision_id: int) -> None:
        if not worker.run():  # whatever is closed comes first
            speculation.run(revision_id)
