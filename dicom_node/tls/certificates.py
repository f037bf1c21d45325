"""Certificate files: made for trying TLS out, and read for their dates and fingerprints.

By the ``openssl`` program, since Python's own library neither makes nor reads certificate files.
A hospital's CA makes the real ones.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_node.errors import ConfigurationError

__all__ = ["Certificate", "make_authority", "make_certificate", "read_certificates"]

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_KEYS = {
    "ec": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa": ("-newkey", "rsa:3072"),
}
_DAY_S = 86400.0

KeyType = Literal["ec", "rsa"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate file says.

    Attributes
    ----------
    subject, issuer : str
        Distinguished names (RFC 2253).
    names : str
        Subject alternative names, as OpenSSL writes them.
    not_before, not_after : float
        Seconds since 1970.
    sha256 : str
        What a peer's ``certificate_sha256`` holds.
    """

    subject: str
    issuer: str
    names: str
    not_before: float
    not_after: float
    sha256: str

    @property
    def days_left(self) -> float:
        """Until it expires; negative when it has."""
        return (self.not_after - time.time()) / _DAY_S


def read_certificates(path: Path) -> list[Certificate]:
    """Return all certificates of a PEM file, in its order.

    Raises
    ------
    ConfigurationError
        The file cannot be read, holds no certificate, or ``openssl`` is not installed.
    """
    try:
        found = _PEM.findall(path.read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if not found:
        raise ConfigurationError(f"{path}: holds no certificate (PEM is expected)")
    return [_read(path, pem) for pem in found]


def _read(path: Path, pem: str) -> Certificate:
    asked = ("-subject", "-issuer", "-startdate", "-enddate", "-ext", "subjectAltName")
    try:
        said = _openssl("x509", "-noout", "-nameopt", "RFC2253", *asked, stdin=pem)
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        fields = dict(line.split("=", 1) for line in said.splitlines() if re.match(r"\w+=", line))
        return Certificate(
            subject=fields["subject"],
            issuer=fields["issuer"],
            names=", ".join(re.findall(r"^\s+(\S.*)$", said, re.MULTILINE)),
            not_before=float(ssl.cert_time_to_seconds(fields["notBefore"])),
            not_after=float(ssl.cert_time_to_seconds(fields["notAfter"])),
            sha256=fingerprint,
        )
    except (ValueError, KeyError, subprocess.CalledProcessError) as error:
        raise ConfigurationError(f"{path}: a certificate in it cannot be read") from error


def make_authority(folder: Path, *, days: int = 3650, key_type: KeyType = "ec") -> Path:
    """Make a CA for trying things, ``ca.pem`` and ``ca.key``; return the certificate's path.

    Raises
    ------
    ConfigurationError
        It exists, or ``openssl`` is not installed.
    """
    extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
    return _make(folder, "ca", f"/CN=m3lung trial CA {folder.name}", extensions, days, key_type)


def make_certificate(
    folder: Path,
    name: str,
    hosts: Sequence[str] = (),
    *,
    days: int = 365,
    key_type: KeyType = "ec",
    authority: Path | None = None,
) -> Path:
    """Make ``NAME.pem`` and ``NAME.key``, for both sides of TLS; return the certificate's path.

    Parameters
    ----------
    name : str
        Common name, and the files' name.
    hosts : sequence of str
        Host names and addresses for the subject alternative name, beside `name`.
    authority : Path, optional
        Folder of the ``ca.pem`` and ``ca.key`` that sign it; without, it signs itself.

    Raises
    ------
    ConfigurationError
        The files exist, a name cannot be used, or ``openssl`` is not installed.
    """
    for word in (name, *hosts):
        if not (_NAME.fullmatch(word) or _is_address(word)):
            raise ConfigurationError(f"name: {word!r}: letters, digits, space, . _ - (at most 64)")
    names = dict.fromkeys([name.replace(" ", "-"), *hosts])
    alternative = ",".join(f"{'IP' if _is_address(word) else 'DNS'}:{word}" for word in names)
    extensions = (
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth,clientAuth",
        f"subjectAltName={alternative}",
    )
    return _make(folder, name, f"/CN={name}", extensions, days, key_type, authority)


def _make(
    folder: Path,
    name: str,
    subject: str,
    extensions: Sequence[str],
    days: int,
    key_type: KeyType,
    authority: Path | None = None,
) -> Path:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    for path in (certificate, key):
        if path.exists():
            raise ConfigurationError(f"{path} exists; take another name or folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key.touch(mode=0o600)
    options = [word for extension in extensions for word in ("-addext", extension)]
    if authority is not None:
        options += ["-CA", str(authority / "ca.pem"), "-CAkey", str(authority / "ca.key")]
    try:
        _openssl(
            *("req", "-x509", *_KEYS[key_type], "-nodes", "-sha256", "-days", str(days)),
            *("-subj", subject, "-keyout", str(key), "-out", str(certificate), *options),
        )
    except subprocess.CalledProcessError as error:
        key.unlink(missing_ok=True)
        last = (error.stderr or "").strip().splitlines()[-1:]
        raise ConfigurationError(f"openssl made no certificate: {' '.join(last)}") from error
    return certificate


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _openssl(*arguments: str, stdin: str = "") -> str:
    try:
        return subprocess.run(
            ["openssl", *arguments], input=stdin, capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError as error:
        raise ConfigurationError(
            "the openssl program is not installed: apt install openssl"
        ) from error
