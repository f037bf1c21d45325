"""The body of a request: multipart/related, part by part, as it comes (PS3.18 §8.6.1.2)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dicom_node.domain import Receipt
from dicom_node.errors import CannotUnderstand
from dicom_node.logs import get_logger
from dicom_node.reception.session import ReceptionSession
from dicom_node.reception.status import SUCCESS, status_of
from dicom_node.stow.part import DicomPart, PartMaker

__all__ = ["Body", "BrokenBody", "PartAnswer", "TooManyParts"]

_log = get_logger(__name__)
_MAX_PARTS = 20_000  # more than any series has; what is answered is held in memory
_MAX_HEADERS = 16  # of one part
_MAX_HEADER_BYTES = 4096
_PLAIN = (b"binary", b"8bit", b"7bit")  # Content-Transfer-Encoding (RFC 2045 §6.2)


class BrokenBody(Exception):
    """The body is no multipart message, or ends too early."""


class TooManyParts(Exception):
    """More parts than one request may have."""


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """What a part is answered.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid : str
        Empty where the part named none.
    status : int
        0x0000: durable. Else a Failure Reason.
    words : str
        For the log; they name attributes, never values.
    """

    sop_class_uid: str
    sop_instance_uid: str
    status: int
    words: str = ""

    @property
    def is_named(self) -> bool:
        """Whether the part said what it is."""
        return bool(self.sop_class_uid and self.sop_instance_uid)


class Body:
    """Takes a body in pieces of any size; each part is durable when its end has come.

    Parameters
    ----------
    boundary : bytes
        As the Content-Type of the request says.
    make_part : callable
        Returns the :class:`~dicom_node.stow.part.DicomPart` for what comes next.

    Attributes
    ----------
    answers : list of PartAnswer
        Of the parts whose end has come.
    """

    def __init__(self, boundary: bytes, session: ReceptionSession, make_part: PartMaker) -> None:
        self._session = session
        self._make_part = make_part
        self._part: DicomPart | None = None
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._is_over = False
        self.answers: list[PartAnswer] = []
        names: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_begin": self._begin_header,
            "on_header_field": self._take_header_field,
            "on_header_value": self._take_header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        self._parser = MultipartParser(
            boundary,
            names,  # type: ignore[arg-type]
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        BrokenBody
        TooManyParts
        """
        try:
            self._parser.write(piece)
        except FormParserError as error:
            # Its words quote what was sent.
            raise BrokenBody("no multipart message of this boundary") from error

    def finish(self) -> None:
        """Nothing more comes.

        Raises
        ------
        BrokenBody
            The closing boundary is missing: the last part is not whole.
        """
        if not self._is_over:
            raise BrokenBody("the closing boundary is missing")

    def discard(self) -> None:
        """Forget the part that is under way; harmless at the end."""
        if self._part is not None:
            self._part.discard()
            self._part = None

    # -- what the parser says ----------------------------------------------------------------------

    def _begin(self) -> None:
        if len(self.answers) >= _MAX_PARTS:
            raise TooManyParts(f"more than {_MAX_PARTS} parts")
        self._part = self._make_part()

    def _begin_header(self) -> None:
        self._header = (bytearray(), bytearray())

    def _take_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _end_header(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        assert self._part is not None  # noqa: S101  between begin and end
        if name == b"content-type":
            kind = parse_options_header(value)[0].lower()
            if kind != b"application/dicom":
                self._part.refuse(CannotUnderstand("the part is no application/dicom"))
        elif name == b"content-transfer-encoding" and value.strip().lower() not in _PLAIN:
            self._part.refuse(CannotUnderstand("the part's transfer encoding is not read here"))

    def _take(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None  # noqa: S101  between begin and end
        self._part.write(memoryview(data)[start:end])

    def _end(self) -> None:
        part, self._part = self._part, None
        assert part is not None  # noqa: S101  between begin and end
        began = time.perf_counter()
        status, words = SUCCESS, ""
        try:
            receipt = part.finish()
        except Exception as error:  # noqa: BLE001  the edge: recorded and answered
            part.discard()
            status, words = status_of(error)
            self._session.note_answer("refused", status)
            # The type of an unforeseen error only: its text may quote what was sent.
            _log.warning(
                "instance_refused",
                status=f"0x{status:04X}",
                comment=words,
                error=type(error).__name__,
            )
        else:
            self._session.note_answer(receipt, status)
            if receipt is Receipt.STORED:
                _log.debug("instance_stored", ms=round(1e3 * (time.perf_counter() - began)))
            else:
                _log.debug("instance_taken", receipt=str(receipt))
        self.answers.append(PartAnswer(part.sop_class_uid, part.sop_instance_uid, status, words))

    def _finish(self) -> None:
        self._is_over = True
