"""The Celery side of delivery: one task, one id."""

from __future__ import annotations

from celery import Celery

from dicom_node.broker import DELIVER_TASK
from dicom_node.delivery.worker import DeliveryWorker

__all__ = ["register"]


def register(app: Celery, worker: DeliveryWorker) -> None:
    """Have `app` run deliveries with `worker`."""

    @app.task(name=DELIVER_TASK)
    def deliver(shipment_id: int) -> None:
        worker.run(shipment_id)
