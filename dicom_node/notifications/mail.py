"""Messages by e-mail: SMTP with STARTTLS or TLS, and login (RFC 5321, 3207, 4954)."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate

from dicom_node.notifications.steps import NotSent, Step, in_words, trusting
from dicom_node.notifications.wording import Rendered
from dicom_node.settings import MailSettings

__all__ = ["Mail"]


class Mail:
    """Sends mail over one server.

    Parameters
    ----------
    settings : MailSettings
    """

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    @property
    def patience_s(self) -> float:
        """Connection, TLS, login, and each recipient may take their time."""
        return self._settings.timeout_s * (5 + len(self._settings.to))

    def send(self, message: Rendered, done: Callable[[Step], None] = lambda _step: None) -> None:
        """Send `message`; it counts as sent when the server takes it for one recipient.

        Raises
        ------
        NotSent
        """
        server = self._connect()
        try:
            done(Step("connection", f"{self._settings.host}:{self._settings.port} answers"))
            self._secure(server, done)
            self._login(server, done)
            refused = self._hand_over(server, message)
            taken = [address for address in self._settings.to if address not in refused]
            done(Step("message", f"taken for {', '.join(taken)}"))
            if refused:  # sending again would send it to the others twice
                done(Step("recipients", _recipients(refused), ok=False))
        finally:
            server.close()

    def _connect(self) -> smtplib.SMTP:
        own = self._settings
        try:
            if own.security == "tls":
                return smtplib.SMTP_SSL(
                    own.host, own.port, timeout=own.timeout_s, context=trusting(own.ca)
                )
            return smtplib.SMTP(own.host, own.port, timeout=own.timeout_s)
        except smtplib.SMTPException as error:
            raise NotSent("connection", _answer(error)) from error
        except OSError as error:
            raise NotSent("connection", f"{own.host}:{own.port}: {in_words(error)}") from error

    def _secure(self, server: smtplib.SMTP, done: Callable[[Step], None]) -> None:
        if self._settings.security != "starttls":
            return
        try:
            server.starttls(context=trusting(self._settings.ca))
        except smtplib.SMTPException as error:
            raise NotSent("TLS", _answer(error)) from error
        except OSError as error:
            raise NotSent("TLS", in_words(error)) from error
        done(Step("TLS", "the server's certificate is trusted"))

    def _login(self, server: smtplib.SMTP, done: Callable[[Step], None]) -> None:
        if not self._settings.user:
            return
        try:
            server.login(self._settings.user, self._settings.password.get_secret_value())
        except smtplib.SMTPException as error:
            raise NotSent("login", _answer(error)) from error
        except OSError as error:
            raise NotSent("login", in_words(error)) from error
        done(Step("login", "user and password are accepted"))

    def _hand_over(self, server: smtplib.SMTP, message: Rendered) -> dict[str, tuple[int, bytes]]:
        """Return who was refused, if the others were not."""
        try:
            return server.send_message(self._mail(message))
        except smtplib.SMTPRecipientsRefused as error:
            raise NotSent("recipients", _recipients(error.recipients)) from error
        except smtplib.SMTPSenderRefused as error:
            raise NotSent("sender", _answer(error)) from error
        except smtplib.SMTPException as error:
            raise NotSent("message", _answer(error)) from error
        except OSError as error:
            raise NotSent("message", in_words(error)) from error

    def _mail(self, message: Rendered) -> EmailMessage:
        own = self._settings
        sender = own.sender or own.user
        mail = EmailMessage()
        mail["From"] = sender
        mail["To"] = ", ".join(own.to)
        mail["Subject"] = message.subject
        mail["Date"] = formatdate(localtime=False)
        mail["Message-ID"] = f"<{message.token}@{sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
        mail.set_content(message.text)
        return mail


def _answer(error: smtplib.SMTPException) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        return f"the server answers {error.smtp_code} {' '.join(words.split())[:200]}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _recipients(refused: dict[str, tuple[int, bytes]]) -> str:
    return "; ".join(
        f"{address}: {code} {' '.join(words.decode('utf-8', 'replace').split())[:100]}"
        for address, (code, words) in sorted(refused.items())
    )
