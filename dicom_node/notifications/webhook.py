"""Messages by HTTP POST, signed as Standard Webhooks says (standardwebhooks.com, version 1).

``webhook-id`` is the message's token, the same at every attempt; ``webhook-signature`` is ``v1,``
and the HMAC-SHA256, in Base64, over ``<id>.<timestamp>.<body>``. A secret that begins with
``whsec_`` is Base64, any other is taken as it stands.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

from dicom_node import __version__
from dicom_node.notifications.steps import NotSent, Step, in_words, trusting
from dicom_node.notifications.wording import Rendered
from dicom_node.settings import WebhookSettings

__all__ = ["Webhook", "sign"]


def sign(secret: str, token: str, timestamp: str, body: bytes) -> str:
    """Return the value of ``webhook-signature``."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise NotSent("signature", "the secret after whsec_ is not Base64") from None
    signed = b".".join((token.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Webhook:
    """Posts to one address.

    Parameters
    ----------
    settings : WebhookSettings
    """

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings

    @property
    def patience_s(self) -> float:
        """Connection, TLS and answer may take their time."""
        return 3 * self._settings.timeout_s

    def send(self, message: Rendered, done: Callable[[Step], None] = lambda _step: None) -> None:
        """Post `message`; any answer of the 2xx class means that it was taken.

        Raises
        ------
        NotSent
        """
        own = self._settings
        body = json.dumps(message.document, ensure_ascii=False).encode()
        timestamp = str(int(time.time()))
        secret = own.secret.get_secret_value()
        request = urllib.request.Request(  # noqa: S310  http or https: the settings see to it
            own.url,
            data=body,
            headers={
                "Content-Type": "application/json",
                "User-Agent": f"m3lung-node/{__version__}",
                "webhook-id": message.token,
                "webhook-timestamp": timestamp,
                "webhook-signature": sign(secret, message.token, timestamp, body),
            },
        )
        host = urlsplit(own.url).hostname
        opener = urllib.request.build_opener(
            _NoRedirect, urllib.request.HTTPSHandler(context=trusting(own.ca))
        )
        try:
            with opener.open(request, timeout=own.timeout_s) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            with error:
                raise NotSent("answer", _of_status(error.code)) from None
        except urllib.error.URLError as error:
            reason = error.reason
            words = in_words(reason) if isinstance(reason, OSError) else str(reason)
            raise NotSent("connection", f"{host}: {words}") from None
        except http.client.HTTPException as error:
            raise NotSent("answer", f"not HTTP ({type(error).__name__})") from None
        except OSError as error:
            raise NotSent("answer", in_words(error)) from None
        done(Step("message", f"{host} answers {status}"))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, somewhere else."""

    def redirect_request(self, *_: object) -> None:
        """Follow nothing."""


def _of_status(code: int) -> str:
    words = http.client.responses.get(code, "")
    hint = {401: "; is the secret the same on both sides?", 404: "; is the path right?"}
    moved = "; the address has moved, name the new one" if 300 <= code < 400 else ""
    return f"{code} {words}{hint.get(code, moved)}"
