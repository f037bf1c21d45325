"""The tables of those who watch the node: metrics, and messages to people."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from dicom_node.settings.sections import Port, Seconds, Section

__all__ = [
    "BODY_FIELDS",
    "LINE_FIELDS",
    "MailSettings",
    "MetricsSettings",
    "NotificationSettings",
    "WebhookSettings",
]

Occasion = Literal["rejected", "quarantined", "delivery", "breaker", "disk", "positive"]
FindingClass = Literal["covid19", "h1n1", "cap"]

BODY_FIELDS = frozenset({"ae_title", "count", "summary", "lines"})
"""What `subject` and `body` may name."""
LINE_FIELDS = frozenset({"time", "occasion", "words", "series", "about"})
"""What `line` may name."""


def _names_only(fields: frozenset[str], text: str) -> str:
    template = string.Template(text)
    unknown = set(template.get_identifiers()) - fields
    if not template.is_valid():
        raise ValueError("a $ stands before a name, as in $words; write $$ for the sign itself")
    if unknown:
        raise ValueError(f"unknown ${min(unknown)}; there is ${', $'.join(sorted(fields))}")
    return text


def _body(text: str) -> str:
    return _names_only(BODY_FIELDS, text)


def _line(text: str) -> str:
    return _names_only(LINE_FIELDS, text)


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("an address such as https://host/path is needed")
    if parts.username or parts.password:
        raise ValueError("no user or password in the address: the signature says who sent it")
    return text


class MetricsSettings(Section):
    """Metrics and health over HTTP, without patient data and without login: keep it inside."""

    enabled: bool = False  # True: `m3lung serve` starts the exporter
    host: str = "127.0.0.1"  # address to listen on
    port: Annotated[int, Field(ge=0, le=65535)] = 9464  # 0: any free one (tests)
    cache_s: Annotated[float, Field(ge=0)] = 5.0  # how long one look at the ledger is answered from
    stale_work_s: Seconds = 600.0  # ready work that nobody took for so long: unhealthy
    stale_loop_s: Seconds = 60.0  # a listener or reconciler that does not come round: unhealthy


class NotificationSettings(Section):
    """Messages to people; over which channels: see ``mail`` and ``webhook``."""

    occasions: tuple[Occasion, ...] = (
        "rejected",  # what is told of; "positive" tells of results, too
        "quarantined",
        "delivery",
        "breaker",
        "disk",
    )
    positive_classes: tuple[FindingClass, ...] = (
        "covid19",
        "h1n1",
        "cap",
    )  # that count as positive
    positive_from: Annotated[float, Field(ge=0, le=1)] = 0.5  # and their least probability
    include_patient_data: bool = False  # True: accession number, patient ID and study UID are told
    group_s: Annotated[float, Field(ge=0)] = 30.0  # wait for more of the kind before a message
    interval_s: Annotated[float, Field(ge=0)] = 600.0  # between two messages over one channel
    retry_first_s: Seconds = 30.0  # after the first failure; doubles from there
    retry_cap_s: Seconds = 3600.0  # longest time between two tries
    give_up_after_s: Seconds = 86400.0  # then a message is given up
    most_lines: Annotated[int, Field(ge=1, le=1000)] = 20  # of one message; the rest are counted
    subject: Annotated[str, AfterValidator(_body)] = (
        "[$ae_title] $summary"  # template of $ae_title, $count, $summary
    )
    body: Annotated[str, AfterValidator(_body)] = (
        "$ae_title reports:\n\n$lines\n\n"  # template of these, and $lines
        "'m3lung status' and 'm3lung check' say more.\n"
    )
    line: Annotated[str, AfterValidator(_line)] = (
        "$time  $words$about"  # template of each of $lines; there is $occasion and $series, too
    )


class MailSettings(Section):
    """Messages by e-mail (SMTP)."""

    host: str = ""  # of the mail server; empty: no mail
    port: Port = 587  # 465 with security "tls"
    security: Literal["starttls", "tls", "none"] = "starttls"  # "none": inside one's own walls only
    ca: Path | None = None  # PEM: who signed the server's certificate; None: the system's CAs
    user: str = ""  # empty: no login
    password: SecretStr = SecretStr("")  # M3LUNG_MAIL__PASSWORD is its place
    sender: str = ""  # an address; empty: user
    to: tuple[str, ...] = ()  # addresses
    timeout_s: Seconds = 30.0  # of each step

    @model_validator(mode="after")
    def _is_whole(self) -> MailSettings:
        if not self.host:
            return self
        if not self.to:
            raise ValueError("to: nobody would get the mail")
        for address in (*self.to, self.sender or self.user):
            spaced = any(sign.isspace() for sign in address)
            if address.count("@") != 1 or spaced or not address.isascii():
                raise ValueError(f"{address!r} is no mail address (sender, or user in its place)")
        if self.user and self.security == "none":
            raise ValueError('a login needs security "starttls" or "tls"')
        return self


class WebhookSettings(Section):
    """Messages by HTTP POST, signed as Standard Webhooks says (standardwebhooks.com)."""

    url: Annotated[str, AfterValidator(_web_address)] = ""  # empty: none
    secret: SecretStr = SecretStr("")  # of the signature; M3LUNG_WEBHOOK__SECRET is its place
    ca: Path | None = None  # PEM: who signed the server's certificate; None: the system's CAs
    timeout_s: Seconds = 30.0  # of each step

    @model_validator(mode="after")
    def _is_signed(self) -> WebhookSettings:
        if self.url and len(self.secret.get_secret_value()) < 16:
            raise ValueError("secret: 16 characters or more, so that the receiver knows us")
        return self
