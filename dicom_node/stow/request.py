"""What a request asks for, and what is refused before a byte of its body is read."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import h11
from python_multipart.multipart import parse_options_header

from dicom_node.domain import is_legal_uid
from dicom_node.settings import StowSettings

__all__ = ["Refusal", "StoreRequest", "read_request"]

_MAX_BOUNDARY = 128  # RFC 2046 §5.1.1 says 70; Orthanc's have 73


class Refusal(Exception):
    """An answer without any instance: its status, its words, its further headers."""

    def __init__(self, status: int, words: str, **headers: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A body that can be read here.

    Attributes
    ----------
    boundary : bytes
        Between its parts.
    study_instance_uid : str
        The only study that they may belong to; empty: any.
    """

    boundary: bytes
    study_instance_uid: str


def read_request(request: h11.Request, stow: StowSettings) -> StoreRequest:
    """Return what is to be stored (PS3.18 §10.5.1).

    Raises
    ------
    Refusal
    """
    study = _study(request, stow)
    headers = dict(request.headers)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(415, "the body has a content encoding")
    boundary = _boundary(headers.get(b"content-type", b"").decode("latin-1"))
    # h11 has refused what is no number.
    if int(headers.get(b"content-length", b"0")) > stow.max_request_bytes:
        raise Refusal(413, "the body is larger than this node accepts")
    return StoreRequest(boundary, study)


def _study(request: h11.Request, stow: StowSettings) -> str:
    path = unquote(urlsplit(request.target.decode("latin-1")).path)
    resource = f"{stow.base_path}/studies"
    study = path.removeprefix(f"{resource}/")
    if path != resource and (study == path or "/" in study):
        raise Refusal(404, f"the resource here is {resource}")
    if request.method != b"POST":
        raise Refusal(405, "images are stored by POST; nothing is given out", Allow="POST")
    if path == resource:
        return ""
    if not is_legal_uid(study):
        raise Refusal(400, "the address names no legal Study Instance UID")
    return study


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    inner = options.get(b"type", b"").lower()
    if kind.lower() != b"multipart/related" or inner != b"application/dicom":
        raise Refusal(415, 'only multipart/related; type="application/dicom" is stored here')
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise Refusal(400, f"the content type names no boundary of 1 to {_MAX_BOUNDARY} characters")
    return boundary
