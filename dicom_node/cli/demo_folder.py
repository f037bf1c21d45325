"""The folder of a demo: ours alone, made anew each time, used by one demo at a time."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import ConfigurationError

__all__ = ["DemoFolder", "fresh_folder"]

_MARKER = ".m3lung-demo"


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where the parts of a demo lie.

    Attributes
    ----------
    root : Path
        Absolute.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The node's configuration document."""
        return self.root / "node.toml"

    @property
    def log(self) -> Path:
        """The node's log."""
        return self.root / "node.log"

    @property
    def state(self) -> Path:
        """The node's state directory."""
        return self.root / "state"

    @property
    def pacs(self) -> Path:
        """Configuration, log and storage of the PACS."""
        return self.root / "pacs"

    @property
    def series(self) -> Path:
        """The synthetic series, where none was given."""
        return self.root / "series"

    @property
    def from_pacs(self) -> Path:
        """What came back from the PACS."""
        return self.root / "from-pacs"

    @property
    def pictures(self) -> Path:
        """PNGs."""
        return self.root / "pictures"

    @property
    def report(self) -> Path:
        """Everything that the tables say, as JSON."""
        return self.root / "demo.json"


@contextmanager
def fresh_folder(root: Path) -> Iterator[DemoFolder]:
    """Make `root` empty of an earlier demo and hold it.

    Raises
    ------
    ConfigurationError
        It holds something else than a demo, another demo runs in it, or it cannot be made.
    """
    folder = DemoFolder(root.expanduser().absolute())
    try:
        is_ours = (folder.root / _MARKER).is_file()
        if not is_ours and folder.root.exists() and any(folder.root.iterdir()):
            raise ConfigurationError(
                f"{root} is not empty and was not made by a demo: choose another --out"
            )
        folder.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        marker = (folder.root / _MARKER).open("a")
    except OSError as error:
        raise ConfigurationError(f"{root}: {error.strerror}") from error
    with marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another demo runs in {root}") from None
        _clear(folder)
        yield folder


def _clear(folder: DemoFolder) -> None:
    """Remove what a demo makes, and nothing else."""
    for path in (folder.state, folder.pacs, folder.series, folder.from_pacs, folder.pictures):
        if path.exists():
            shutil.rmtree(path)
    for path in (folder.config, folder.log, folder.report):
        path.unlink(missing_ok=True)
