"""The configuration document as the pages change it: who may, whether it can be, by whom."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from dicom_node.configuration import Change, ConfigurationDocument
from dicom_node.console.access import require_viewer
from dicom_node.console.context import console_of
from dicom_node.errors import ConfigurationError

__all__ = ["DocumentState", "change_of", "document_of", "document_state"]


@dataclass(frozen=True, slots=True)
class DocumentState:
    """How the document is.

    Attributes
    ----------
    path : str
        Empty: the node runs without one.
    error : str
        Why it does not load; empty: what stands there is in force.
    is_writable : bool
        Whether the console may replace it.
    """

    path: str
    error: str
    is_writable: bool

    @property
    def can_change(self) -> bool:
        """Whether a change can succeed at all."""
        return bool(self.path) and self.is_writable and not self.error


def document_of(request: Request) -> ConfigurationDocument:
    """Return the document.

    Raises
    ------
    ConfigurationError
        The node runs without one.
    """
    path = console_of(request).settings.path
    if path is None:
        raise ConfigurationError("this node runs without a configuration document; make one first")
    return ConfigurationDocument(path)


def document_state(request: Request) -> DocumentState:
    """Look at the document, and whether it loads."""
    source = console_of(request).settings
    source()
    if source.path is None:
        return DocumentState("", "", False)
    is_writable = ConfigurationDocument(source.path).is_writable
    return DocumentState(str(source.path), source.error, is_writable)


def change_of(request: Request, words: str) -> Change:
    """Return what the history says of a change by who is asking."""
    return Change(require_viewer(request).name, "console", words)
