"""One series on its way: sent again and again until every image is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import dcmread

__all__ = ["Sending"]

PATIENCE_S = 150.0


class Sending:
    """A series and its sender.

    Parameters
    ----------
    files : sequence of Path
    send : callable
        Sends files to a port once, returns those that were acknowledged.
    ports : sequence of int
        Of the listeners. The first is called first; after a failure the next, as a modality with
        a second destination does.
    acknowledged : dict of SOP Instance UID to Path
        Where it is noted what was acknowledged.
    """

    def __init__(
        self,
        files: Sequence[Path],
        send: Callable[[Sequence[Path], int], list[Path]],
        ports: Sequence[int],
        acknowledged: dict[str, Path],
    ) -> None:
        self.files = list(files)
        header = dcmread(self.files[0], stop_before_pixels=True)
        self.series_instance_uid = str(header.SeriesInstanceUID)
        self.ports = list(ports)
        self._send, self._acknowledged = send, acknowledged
        self._thread: threading.Thread | None = None
        self._open = set(self.files)

    def first_to(self, port: int) -> None:
        """Call the listener at `port` first."""
        self.ports.sort(key=lambda other: other != port)

    def send(self, files: Sequence[Path]) -> None:
        """Send `files` once; remember what was acknowledged."""
        for path in self._send(files, self.ports[0]):
            self._acknowledged[str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
            self._open.discard(path)

    def begin(self, files: Sequence[Path] | None = None) -> None:
        """Send in the background until all `files` (default: the series) are acknowledged."""
        self._thread = threading.Thread(target=self._until_acknowledged, args=(files,))
        self._thread.start()

    def finish(self) -> None:
        """Wait until everything that was begun is acknowledged."""
        assert self._thread is not None
        self._thread.join(PATIENCE_S + 120.0)
        if self._thread.is_alive():
            raise TimeoutError(f"{len(self._open)} images were not acknowledged")

    def send_all(self, files: Sequence[Path] | None = None) -> None:
        """Send until everything is acknowledged, and return."""
        self.begin(files)
        self.finish()

    def twin(self) -> Sending:
        """Return another sender of the same series, which calls the other listener first."""
        return Sending(self.files, self._send, self.ports[::-1], self._acknowledged)

    @property
    def is_acknowledged(self) -> bool:
        """Whether every image of the series was."""
        return not self._open

    def _until_acknowledged(self, files: Sequence[Path] | None) -> None:
        wanted = list(files or self.files)
        deadline = time.monotonic() + PATIENCE_S
        while not self._open.isdisjoint(wanted) and time.monotonic() < deadline:
            self.send(wanted)  # from the start, as most senders do
            if not self._open.isdisjoint(wanted):
                self.ports.append(self.ports.pop(0))
                time.sleep(0.3)
