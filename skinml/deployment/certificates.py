"""A federation's own certificate authority and the certificate of its server."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skinml.errors import ConfigError, IntegrityError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 365
RENEW_DAYS = 30
ALWAYS = ("localhost", "127.0.0.1")  # what the coordinator's own parts call the SuperLink
_SKEW = timedelta(days=2)  # a clinic's clock may be late


@dataclass(frozen=True)
class Sealed:
    """A certificate and its private key.

    Attributes:
        certificate: PEM.
        key: PEM, PKCS 8, not encrypted: only for a file that nobody else may read.
    """

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Keep the key out of messages."""
        return "Sealed(...)"


def make_authority(federation: str, now: datetime) -> Sealed:
    """Make a certificate authority that signs servers and nothing else.

    Args:
        federation: The federation's name.
        now: The time, with its zone.

    Returns:
        Its certificate, valid for ten years, and its key (EC P-256).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{federation} authority")
    builder = _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _sealed(builder.sign(key, hashes.SHA256()), key)


def make_server_certificate(
    authority: Sealed, federation: str, hosts: Sequence[str], now: datetime
) -> Sealed:
    """Make the server's certificate.

    Args:
        authority: Who signs it.
        federation: The federation's name.
        hosts: Names and addresses under which clinics reach the server; localhost and 127.0.0.1
            are added.
        now: The time, with its zone.

    Returns:
        Its certificate, valid for a year, and its key (EC P-256).

    Raises:
        ConfigError: If a host is neither a name nor an address.
        IntegrityError: If the authority's files do not belong together.
    """
    signer, signer_key = _authority(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(host) for host in dict.fromkeys((*hosts, *ALWAYS))]
    builder = _builder(
        _name(f"{federation} server"), signer.subject, key.public_key(), now, SERVER_DAYS
    )
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), critical=False
    )
    return _sealed(builder.sign(signer_key, hashes.SHA256()), key)


def expiry(certificate: bytes) -> datetime:
    """Tell when a certificate ends.

    Args:
        certificate: PEM.

    Returns:
        The time, in UTC.

    Raises:
        IntegrityError: If this is no certificate.
    """
    return _certificate(certificate).not_valid_after_utc


def names_of(certificate: bytes) -> tuple[str, ...]:
    """Tell under which names and addresses a server's certificate holds.

    Args:
        certificate: PEM.

    Returns:
        Its names, as in the certificate.

    Raises:
        IntegrityError: If this is no certificate of a server.
    """
    try:
        found = _certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        raise _damaged("a certificate without names") from None
    return tuple(str(each.value) for each in found.value)


def fingerprint(certificate: bytes) -> str:
    """Give the digest by which two people compare a certificate, over the telephone say.

    Args:
        certificate: PEM.

    Returns:
        SHA-256 of its DER form, in hexadecimal digits.

    Raises:
        IntegrityError: If this is no certificate.
    """
    return _certificate(certificate).fingerprint(hashes.SHA256()).hex()


def is_authority(certificate: bytes) -> bool:
    """Tell whether a certificate may sign others.

    Args:
        certificate: PEM.

    Returns:
        Whether it may; False also for what is no certificate.
    """
    try:
        found = _certificate(certificate).extensions.get_extension_for_class(x509.BasicConstraints)
    except (IntegrityError, x509.ExtensionNotFound):
        return False
    return bool(found.value.ca)


def client_context(authority: bytes) -> ssl.SSLContext:
    """Make what a client connects with: this authority alone, names checked, TLS 1.2 at least.

    Args:
        authority: The federation's CA certificate, PEM.

    Returns:
        The context.

    Raises:
        IntegrityError: If it is no certificate.
    """
    _certificate(authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def _authority(sealed: Sealed) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _certificate(sealed.certificate)
    try:
        key = load_pem_private_key(sealed.key, password=None)
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise _damaged("another content") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise _damaged("a key of another certificate")
    return certificate, key


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise _damaged("another content") from None


def _damaged(got: str) -> IntegrityError:
    return IntegrityError(
        rule="a certificate that skinml made, in PEM",
        got=got,
        do="Restore it from a backup of the federation's folder, or ask for a new invitation.",
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    at = now.astimezone(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _SKEW)
        .not_valid_after(at + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    labels = host.rstrip(".").split(".")
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    if len(host) > 253 or not all(
        0 < len(each) <= 63 and set(each.lower()) <= letters and each.strip("-") == each
        for each in labels
    ):
        raise ConfigError(
            rule="a host name or an IP address",
            got=f"host={host!r}",
            do="Name the host as clinics reach it, such as federation.example.org.",
        )
    return x509.DNSName(host.rstrip(".").lower())


def _name(words: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, words[:64])])


def _sealed(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Sealed:
    return Sealed(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
