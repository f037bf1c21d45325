"""A node behind its listener, in the test's own process; its time is set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicom_node.header_reader import read_instance_header
from dicom_node.ledger import Arrival, Ledger, open_ledger
from dicom_node.ledger.tallies import Tally
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.reconciler import Reconciler
from dicom_node.settings import NodeSettings
from dicom_node.worker.analysis import AnalysisWorker
from dicom_node.worker.reader import SeriesReader
from inference.analyzer import Analyzer
from inference.pixel_file import PixelReader
from support.as_received import as_received

__all__ = ["NodeInProcess", "Nudges"]


class Nudges:
    """A broker that keeps what it is given, in order, for the test to take."""

    def __init__(self) -> None:
        self.analyses: list[int] = []
        self.deliveries: list[int] = []
        self.speculations: list[int] = []

    def analysis(self, analysis_id: int) -> None:
        self.analyses.append(analysis_id)

    def delivery(self, shipment_id: int) -> None:
        self.deliveries.append(shipment_id)

    def speculation(self, revision_id: int) -> None:
        self.speculations.append(revision_id)


class NodeInProcess:
    """Ledger, reconciler and analysis worker over one clock.

    Parameters
    ----------
    settings : NodeSettings
    analyzer : Analyzer
    pixels : PixelReader
    now : float
        Seconds since the epoch at the beginning.
    ledger_url : str
        Empty: the settings' own.
    """

    def __init__(
        self,
        settings: NodeSettings,
        analyzer: Analyzer,
        pixels: PixelReader,
        *,
        now: float = 1_700_000_000.0,
        ledger_url: str = "",
    ) -> None:
        self.now = now
        self.settings = settings
        self.ledger: Ledger = open_ledger(ledger_url or settings.ledger_url, clock=lambda: self.now)
        self.broker = Nudges()
        self.reconciler = Reconciler(
            lambda: self.settings,
            self.ledger,
            self.broker,  # type: ignore[arg-type]
            steady=lambda: self.now,
        )
        self.tally = Tally()
        self.reader = SeriesReader(analyzer, pixels)
        self.worker = AnalysisWorker(lambda: self.settings, self.ledger, self.reader, self.tally)

    def record(
        self, paths: Sequence[Path], *, calling: str = "CT1", outcome: str = "released"
    ) -> None:
        """Record files of the spool as received on one association; `outcome` empty: it stays."""
        association = self.ledger.intake.open_association(
            calling_ae=calling, called_ae=self.settings.ae_title, address="127.0.0.1"
        )
        spool = self.settings.spool_dir
        self.ledger.intake.record_instances(
            [
                Arrival(
                    association,
                    read_instance_header(path),
                    as_received(path, path.relative_to(spool)),
                )
                for path in paths
            ]
        )
        if outcome:
            self.ledger.intake.close_association(association, outcome=outcome, ignored={})

    def sweep(self, *after_s: float) -> None:
        """Let time go by, and the reconciler look once after each step."""
        for seconds in after_s:
            self.now += seconds
            self.reconciler.sweep()

    def status(self, uid: str) -> SeriesStatus:
        """Return the series of this UID as the worklist has it."""
        [found] = self.ledger.worklist.find(uid=uid)
        return found
