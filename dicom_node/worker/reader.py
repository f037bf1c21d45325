"""The loaded model, and what it makes of an assignment: results in a folder, and result.json."""

from __future__ import annotations

from pathlib import Path

from dicom_node.results.dicom_file import WrittenObject
from dicom_node.results.result_json import ResultDocument, analyzed
from dicom_node.settings import NodeSettings
from dicom_node.worker.assignment import Assignment
from dicom_node.worker.pipeline import Progress, read_series
from inference.analyzer import Analyzer
from inference.pixel_file import PixelReader

__all__ = ["SeriesReader"]


class SeriesReader:
    """Reads one assignment after another.

    Parameters
    ----------
    analyzer : Analyzer
        The loaded model.
    pixels : PixelReader
        Decodes the instances' pixel data: a :class:`~inference.decoder_pool.DecoderPool`.
    """

    def __init__(self, analyzer: Analyzer, pixels: PixelReader) -> None:
        self._analyzer = analyzer
        self._pixels = pixels

    def key(self, assignment: Assignment) -> str:
        """Return the key of the reading that :meth:`read` would make of `assignment`."""
        return assignment.key(self._analyzer.identities)

    def read(
        self, assignment: Assignment, settings: NodeSettings, out_dir: Path, progress: Progress
    ) -> tuple[ResultDocument, tuple[WrittenObject, ...]]:
        """Read the images and write the results into `out_dir`; result.json is only returned.

        Raises
        ------
        SeriesRejected
            An image is missing, or is not what was acknowledged.
        inference.errors.SeriesError
            The pixels cannot be analysed, with the reason for a radiologist.
        inference.errors.DiskFailed
        """
        assignment.require_unaltered(settings.spool_dir)
        reading = read_series(
            [settings.spool_dir / path for _, path in assignment.instances],
            self._analyzer,
            self._pixels,
            out_dir,
            settings.results,
            assignment.context,
            frames={
                settings.spool_dir / path: assignment.frames[uid]
                for uid, path in assignment.instances
                if uid in assignment.frames
            },
            progress=progress,
        )
        document = analyzed(
            reading.findings, reading.source, assignment.context, reading.objects,
            banner=settings.results.banner,
        )  # fmt: skip
        return document, reading.objects
