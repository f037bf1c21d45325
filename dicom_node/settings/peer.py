"""A peer: an application entity the node talks to."""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dicom_node.domain import AETitle, ObjectKind
from dicom_node.settings.daily_hours import DailyHours, hours_end, leaves_no_time
from dicom_node.settings.rule import Priority
from dicom_node.settings.sections import Network, Port, Section

__all__ = ["Peer", "PeerRole", "QuietHours"]


_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def _host(text: str) -> str:
    host = text.strip()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        # RFC 1123 §2.1; underscores stand in many a hospital's names.
        labels = host.removesuffix(".").encode("idna").decode("ascii").split(".")
    except UnicodeError:
        labels = [""]
    is_number = labels[-1].isdigit()  # an address with a part too many or too large
    if len(host) > 253 or is_number or not all(map(_HOST_LABEL.fullmatch, labels)):
        raise ValueError("a host is a name such as pacs.example.org or an address, nothing else")
    return host


Host = Annotated[str, AfterValidator(_host)]
"""Name or address of a machine; whether it exists is another question."""


def _fingerprint(text: str) -> str:
    plain = text.replace(":", "").replace(" ", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits (m3lung certs show FILE)")
    return plain


Fingerprint = Annotated[str, AfterValidator(_fingerprint)]


def _stow_url(text: str) -> str:
    parts = urlsplit(text)
    if not text:
        return text
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an address such as https://host/dicom-web/studies is needed")
    if parts.username or parts.password:
        raise ValueError("no user or password in the address: see [credentials]")
    if parts.query or parts.fragment or not parts.path.rstrip("/").endswith("/studies"):
        raise ValueError("the address of STOW-RS ends in /studies (PS3.18 §10.5)")
    _ = parts.port  # raises what is wrong with it
    return text.rstrip("/")


class PeerRole(enum.StrEnum):
    """What a peer may do here."""

    SOURCE = "source"  # may send to us
    DESTINATION = "destination"  # gets results


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Hours in which a destination gets nothing, and it is one of them.

    Attributes
    ----------
    until : str
        ``HH:MM``, local time.
    let_urgent : bool
        Whether results of urgent series go to it all the same.
    """

    until: str
    let_urgent: bool

    def hold(self, priority: str) -> bool:
        """Whether results of this priority wait."""
        return not (self.let_urgent and priority == Priority.URGENT)


class Peer(Section):
    """A DICOM application entity that we know.

    Attributes
    ----------
    name : str
        What commands and the ledger call it: lower case, digits, ``_`` and ``-``.
    ae_title : str
        Its own AE title.
    host : str
        Name or address of its machine.
    port : int
        TCP port of its DICOM service.
    roles : tuple of PeerRole
        A source may send to us, a destination gets results.
    enabled : bool
        False: known, but neither heard nor served.
    outputs : tuple of ObjectKind
        What a destination gets.
    query : bool
        Whether a source answers C-FIND at series level, which tells how many images a series has.
    compress : {"none", "lossless", "jpeg"}
        Transfer syntax offered first for overlays; uncompressed is always offered beside it.
    commitment : {"none", "request"}
        Whether a destination is asked to commit to what it accepted (storage commitment).
    verify : {"none", "c-find", "qido"}
        Whether a destination is asked by C-FIND what it holds, where commitment is not asked for
        or stays without a report; one with `stow_url` also by QIDO-RS.
    stow_url : str
        A destination's STOW-RS address, such as ``https://host/dicom-web/studies``: results go
        there in place of C-STORE. Empty: by C-STORE.
    addresses : tuple of str
        Addresses and networks it may call from; empty: any.
    tls : bool
        Whether it speaks TLS, both ways. Then a plain association under its title is refused.
    certificate_sha256 : tuple of str
        Fingerprints of its certificate; two while it is being renewed.
    certificate_name : str
        Without fingerprint: the name its certificate has to carry; empty: its host.
    associations : int
        To a destination at once, for one shipment: 1 to 8. A peer that grants fewer gets fewer.
    quiet_hours : tuple of str
        Hours of the day, such as ``07:00-09:30``, in which a destination gets nothing; local time.
    quiet_hours_let_urgent : bool
        Whether results of urgent series go to it all the same.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    ae_title: AETitle
    host: Host = "127.0.0.1"
    port: Port = 104
    roles: tuple[PeerRole, ...] = (PeerRole.SOURCE, PeerRole.DESTINATION)
    enabled: bool = True
    query: bool = False
    outputs: tuple[ObjectKind, ...] = tuple(ObjectKind)
    compress: Literal["none", "lossless", "jpeg"] = "lossless"
    commitment: Literal["none", "request"] = "none"
    verify: Literal["none", "c-find", "qido"] = "none"
    stow_url: Annotated[str, AfterValidator(_stow_url)] = ""
    addresses: tuple[Network, ...] = ()
    tls: bool = False
    certificate_sha256: tuple[Fingerprint, ...] = ()
    certificate_name: str = ""
    associations: Annotated[int, Field(ge=1, le=8)] = 1
    quiet_hours: tuple[DailyHours, ...] = ()
    quiet_hours_let_urgent: bool = False

    @model_validator(mode="after")
    def _certificate_needs_tls(self) -> Peer:
        secure = self.tls or self.stow_url.startswith("https:")
        if not secure and (self.certificate_sha256 or self.certificate_name):
            raise ValueError("a certificate is of use with tls = true or an https stow_url only")
        return self

    @model_validator(mode="after")
    def _proof_is_to_be_had(self) -> Peer:
        if self.verify == "qido" and not self.stow_url:
            raise ValueError('verify = "qido" needs stow_url: it is asked beside it')
        if self.stow_url and self.commitment != "none":
            raise ValueError('STOW-RS has no storage commitment: verify = "qido" in its place')
        return self

    @model_validator(mode="after")
    def _is_quiet_for_a_while_only(self) -> Peer:
        if leaves_no_time(self.quiet_hours):
            raise ValueError("quiet_hours: they take the whole day; nothing would ever be sent")
        if self.quiet_hours_let_urgent and not self.quiet_hours:
            raise ValueError("quiet_hours_let_urgent: there are no quiet_hours")
        return self

    @property
    def is_source(self) -> bool:
        """Whether it may send to us now."""
        return self.enabled and PeerRole.SOURCE in self.roles

    @property
    def is_destination(self) -> bool:
        """Whether it gets results now."""
        return self.enabled and PeerRole.DESTINATION in self.roles

    @property
    def stow_host(self) -> str:
        """Host of `stow_url`."""
        return urlsplit(self.stow_url).hostname or ""

    @property
    def stow_port(self) -> int:
        """TCP port of `stow_url`."""
        parts = urlsplit(self.stow_url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def place(self) -> str:
        """Where it is, for people: results go there, or it is called there."""
        return self.stow_url or f"{self.host}:{self.port}"

    @property
    def may_report(self) -> bool:
        """Whether it may open an association to report on storage commitment."""
        return self.is_destination and self.commitment == "request"

    @property
    def owes_proof(self) -> bool:
        """Whether it is asked to prove that it holds what it accepted."""
        return self.is_destination and (self.commitment != "none" or self.verify != "none")

    def quiet_at(self, now: float) -> QuietHours | None:
        """Return its quiet hours if `now` (seconds since the epoch) is in them."""
        until = hours_end(self.quiet_hours, now)
        return QuietHours(until, self.quiet_hours_let_urgent) if until else None
