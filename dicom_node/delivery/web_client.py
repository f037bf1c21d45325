"""HTTP to one DICOMweb peer: one connection, deadlines, bounded answers, errors in words.

Nothing of the environment is taken (no proxy, no .netrc) and no redirection is followed: a
request goes where the peer's entry says, or nowhere.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from dicom_node import __version__
from dicom_node.errors import ConfigurationError, TransientDelivery
from dicom_node.settings import NodeSettings, Peer, PeerCredentials
from dicom_node.settings.dicomweb import credentials_key
from dicom_node.tls import tls_failure, web_client_context

__all__ = ["WebAnswer", "WebClient", "credentials_name"]

DICOM_JSON = "application/dicom+json"
_MAX_ANSWER_BYTES = 8 << 20
_ACCEPT = f"{DICOM_JSON}, application/json;q=0.5"


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What a server answered.

    Attributes
    ----------
    status : int
    body : bytes
        Empty where it was longer than an answer of this kind can be.
    seconds : float
        From the request's first byte to the answer's last.
    """

    status: int
    body: bytes
    seconds: float


class WebClient:
    """A connection to the ``stow_url`` of `peer`, opened when it is first used.

    Raises
    ------
    TransientDelivery
        What TLS needs of our own files is wrong. They get replaced.
    """

    def __init__(self, settings: NodeSettings, peer: Peer) -> None:
        delivery = settings.delivery
        self._response_timeout_s = delivery.response_timeout_s
        self.url = peer.stow_url
        try:
            context: ssl.SSLContext | bool = (
                web_client_context(settings, peer) if self.url.startswith("https:") else False
            )
        except ConfigurationError as error:
            raise TransientDelivery(f"no TLS connection: {error}") from error
        self._client = httpx.Client(
            verify=context,
            auth=_Shown(settings.credentials_of(peer)),
            headers={"User-Agent": f"m3lung-node/{__version__}", "Accept": _ACCEPT},
            timeout=httpx.Timeout(delivery.response_timeout_s, connect=delivery.connect_timeout_s),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._client.close()

    def post(self, content: Iterable[bytes], *, content_type: str, size_bytes: int) -> WebAnswer:
        """Send `content` to the peer's ``stow_url``, piece by piece.

        Raises
        ------
        TransientDelivery
            No connection, or no answer in time.
        """
        headers = {"Content-Type": content_type, "Content-Length": str(size_bytes)}
        return self._ask("POST", self.url, content=content, headers=headers)

    def get(self, path: str, parameters: Mapping[str, str]) -> WebAnswer:
        """Ask for what lies at `path` below the peer's ``stow_url``.

        Raises
        ------
        TransientDelivery
            No connection, or no answer in time.
        """
        return self._ask("GET", f"{self.url}{path}", params=dict(parameters))

    def _ask(
        self,
        method: str,
        url: str,
        *,
        content: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> WebAnswer:
        began = time.monotonic()
        try:
            with self._client.stream(
                method, url, content=content, headers=headers, params=params
            ) as response:
                body = self._read(response)
                return WebAnswer(response.status_code, body, time.monotonic() - began)
        except httpx.HTTPError as error:
            raise TransientDelivery(_words(error)) from error

    def _read(self, response: httpx.Response) -> bytes:
        deadline = time.monotonic() + self._response_timeout_s
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > _MAX_ANSWER_BYTES:
                return b""
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer does not end")
        return bytes(body)


class _Shown(httpx.Auth):
    """Our credentials with each request, before anybody asks for them."""

    def __init__(self, credentials: PeerCredentials) -> None:
        self._token = credentials.token.get_secret_value()
        self._basic = (
            httpx.BasicAuth(credentials.user, credentials.password.get_secret_value())
            if credentials.user
            else None
        )

    def auth_flow(self, request: httpx.Request):  # type: ignore[no-untyped-def]
        if self._basic is not None:
            yield from self._basic.auth_flow(request)
            return
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def credentials_name(peer: Peer) -> str:
    """Return what the variables with our credentials for `peer` begin with."""
    return f"M3LUNG_CREDENTIALS__{credentials_key(peer.name).upper()}__…"


def _words(error: httpx.HTTPError) -> str:
    """Return what failed; httpx and httpcore wrap what the socket said."""
    cause = _os_error(error)
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS connection: {tls_failure(cause)}"
    if isinstance(error, httpx.ConnectError):
        return f"no connection: {(cause and cause.strerror) or error}"
    if isinstance(error, httpx.NetworkError):
        return f"connection lost: {(cause and cause.strerror) or type(error).__name__}"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the peer broke off, or speaks no HTTP"
    return f"the request failed ({type(error).__name__})"


def _os_error(error: BaseException) -> OSError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
