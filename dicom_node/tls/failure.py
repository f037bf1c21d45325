"""What went wrong in TLS, in words: OpenSSL's reasons as an administrator needs them."""

from __future__ import annotations

import ssl

from dicom_node.tls.binding import WrongCertificate

__all__ = ["tls_failure"]

# X509_V_ERR_*, x509_vfy.h: what we found wrong with the other side's certificate.
_VERIFICATION = {
    2: "its issuer is missing: put the CA's certificate into tls.ca",
    9: "it is not yet valid: compare the clocks",
    10: "it has expired: the peer has to renew it",
    18: "it is self-signed and not among tls.ca",
    19: "an unknown CA signed it: put that CA's certificate into tls.ca if you trust it",
    20: "an unknown CA signed it: put that CA's certificate into tls.ca if you trust it",
    21: "its chain is incomplete: the peer has to send the intermediate certificates too",
    26: "it is not made for this side of TLS (extended key usage)",
    79: "it is not made for this side of TLS",
}

# SSL reasons. An ALERT is what the other side says about us.
_REASONS = {
    "WRONG_VERSION_NUMBER": "the other side speaks no TLS on this port",
    "HTTP_REQUEST": "the other side speaks HTTP",
    "HTTPS_PROXY_REQUEST": "the other side speaks HTTP",
    "PACKET_LENGTH_TOO_LONG": "the other side speaks no TLS on this port",
    "RECORD_LAYER_FAILURE": "the other side speaks no TLS on this port",
    "UNEXPECTED_EOF_WHILE_READING": "the other side closed the connection in the TLS handshake",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side shows no certificate",
    "UNSUPPORTED_PROTOCOL": "the other side speaks only TLS versions before 1.2",
    "VERSION_TOO_LOW": "the other side speaks only TLS versions before 1.2",
    "NO_SHARED_CIPHER": "no cipher suite in common: forward secrecy and AEAD are needed (RFC 9325)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side refuses TLS 1.2 and 1.3",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know the CA of our certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side wants a certificate and got none",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side says that our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the other side says that our certificate is revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the other side does not accept our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side does not accept our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the other side does not accept our certificate's kind",
    "TLSV1_ALERT_ACCESS_DENIED": "the other side denies us access",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the other side found no common cipher suite, or wants another certificate"
    ),
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": "the other side wants stronger cipher suites",
    "TLSV1_ALERT_DECRYPT_ERROR": "the other side could not verify our signature",
}


def tls_failure(error: OSError) -> str:
    """Return what `error`, raised by a handshake or a later read, means.

    TLS 1.3 tells a client only at its first read that the server did not accept its certificate:
    errors of reads and writes are to be told with this as well.
    """
    if isinstance(error, WrongCertificate):
        return error.words
    if isinstance(error, ssl.SSLCertVerificationError):
        code = int(error.verify_code)
        words = _VERIFICATION.get(code, f"{error.verify_message} (X509 {code})")
        return f"the other side's certificate is not accepted: {words}"
    if isinstance(error, TimeoutError):
        return "the TLS handshake did not end in time: the other side is silent, or speaks no TLS"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "UNEXPECTED_EOF_WHILE_READING"
        return _REASONS.get(reason, f"TLS failed ({reason})")
    if isinstance(error, ConnectionError):
        return "the other side closed the connection in the TLS handshake"
    return f"TLS failed ({error.strerror or type(error).__name__})"
