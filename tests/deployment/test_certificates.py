"""The federation's certificates: what a TLS client accepts and refuses, and for how long."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from skinml.deployment.certificates import (
    Sealed,
    client_context,
    expiry,
    fingerprint,
    is_authority,
    make_authority,
    make_server_certificate,
    names_of,
)
from skinml.deployment.federation_folder import (
    make_federation,
    open_federation,
    renew_server_certificate,
)
from skinml.errors import ConfigError, IntegrityError, SkinmlError

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> Sealed:
    return make_authority("network", NOW)


def server(authority: Sealed, *hosts: str, now: datetime = NOW) -> Sealed:
    return make_server_certificate(authority, "network", hosts, now)


def shake_hands(folder: Path, shown: Sealed, trusted: bytes, name: str) -> str:
    """Connect over a socket pair as a client that trusts one authority; give the TLS version."""
    (folder / "crt").write_bytes(shown.certificate)
    (folder / "key").write_bytes(shown.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "crt", folder / "key")
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            serving.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client_context(trusted).wrap_socket(ours, server_hostname=name) as wrapped:
            return str(wrapped.version())
    finally:
        ours.close()
        thread.join(timeout=10)


@pytest.mark.parametrize("name", ["fl.example.org", "10.1.2.3", "localhost", "127.0.0.1"])
def test_a_client_accepts_every_name_of_the_certificate(
    authority: Sealed, tmp_path: Path, name: str
) -> None:
    shown = server(authority, "fl.example.org", "10.1.2.3")
    assert shake_hands(tmp_path, shown, authority.certificate, name) == "TLSv1.3"


def test_a_client_refuses_another_authority(authority: Sealed, tmp_path: Path) -> None:
    other = make_authority("network", NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, server(other), authority.certificate, "localhost")


def test_a_client_refuses_a_name_that_is_not_in_the_certificate(
    authority: Sealed, tmp_path: Path
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(tmp_path, server(authority), authority.certificate, "elsewhere.org")


def test_a_client_refuses_an_expired_certificate(authority: Sealed, tmp_path: Path) -> None:
    old = server(authority, now=NOW - timedelta(days=366))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(tmp_path, old, authority.certificate, "localhost")


def test_a_client_whose_clock_is_a_day_late_accepts_a_new_certificate(authority: Sealed) -> None:
    for made in (authority, server(authority)):
        begins = x509.load_pem_x509_certificate(made.certificate).not_valid_before_utc
        assert begins < NOW - timedelta(days=1)


def test_a_server_certificate_signs_nothing(authority: Sealed) -> None:
    assert is_authority(authority.certificate)
    assert not is_authority(server(authority).certificate)
    assert not is_authority(b"no certificate")


def test_lives_and_keys_are_as_promised(authority: Sealed) -> None:
    shown = server(authority, "fl.example.org")
    assert (expiry(shown.certificate) - NOW).days in {364, 365}
    assert (expiry(authority.certificate) - NOW).days in {3649, 3650}
    assert names_of(shown.certificate) == ("fl.example.org", "localhost", "127.0.0.1")
    key = x509.load_pem_x509_certificate(shown.certificate).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert len(fingerprint(shown.certificate)) == 64


def test_a_key_is_never_shown(authority: Sealed) -> None:
    assert "PRIVATE" not in repr(authority)


@pytest.mark.parametrize("host", ["", "a b", "-x.org", "x_y.org", "ex..org", "h" * 64, "*.org"])
def test_what_is_no_host_is_refused(authority: Sealed, host: str) -> None:
    with pytest.raises(ConfigError, match="host"):
        server(authority, host)


def test_an_authority_with_another_key_signs_nothing(authority: Sealed) -> None:
    mixed = Sealed(authority.certificate, make_authority("network", NOW).key)
    with pytest.raises(IntegrityError):
        server(mixed)


def test_a_folder_keeps_keys_to_its_owner(tmp_path: Path) -> None:
    folder = make_federation(tmp_path / "net", "network", "127.0.0.1:8443", NOW)
    assert open_federation(tmp_path / "net") == folder
    for file in (folder.ca_key, folder.server_key, folder.superlink / "secret"):
        assert file.stat().st_mode & 0o777 == 0o600
    folder.server_key.chmod(0o640)
    with pytest.raises(IntegrityError, match=r"server\.key"):
        open_federation(tmp_path / "net")


def test_a_certificate_is_renewed_in_its_last_month_by_the_same_authority(tmp_path: Path) -> None:
    made = NOW - timedelta(days=340)
    folder = make_federation(tmp_path / "net", "network", "10.0.0.9:8443", made)
    trusted = folder.ca_certificate.read_bytes()
    assert renew_server_certificate(folder, NOW)
    assert not renew_server_certificate(folder, NOW)
    certificate = folder.server_certificate.read_bytes()
    assert (expiry(certificate) - NOW).days in {364, 365}
    assert folder.ca_certificate.read_bytes() == trusted
    shown = Sealed(certificate, folder.server_key.read_bytes())
    assert shake_hands(tmp_path, shown, trusted, "10.0.0.9") == "TLSv1.3"


def test_an_expired_certificate_without_the_authoritys_key_says_what_to_do(tmp_path: Path) -> None:
    folder = make_federation(tmp_path / "net", "network", "h.org:1", NOW - timedelta(days=400))
    folder.ca_key.unlink()
    with pytest.raises(ConfigError, match=r"ca\.key back"):
        renew_server_certificate(folder, NOW)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("two words", "h.org:1"),
        ("", "h.org:1"),
        ("n", "h.org"),
        ("n", "h.org:99999"),
        ("n", ":80"),
        ("n", "::1:80"),
        ("n", "https://h.org:80"),
        ("n", "h_h.org:80"),
    ],
)
def test_a_bad_name_or_address_leaves_no_folder(tmp_path: Path, name: str, address: str) -> None:
    with pytest.raises(SkinmlError):
        make_federation(tmp_path / "net", name, address, NOW)
    assert not (tmp_path / "net").exists()


def test_an_address_on_the_network_is_listened_to_everywhere(tmp_path: Path) -> None:
    far = make_federation(tmp_path / "far", "n", "fl.example.org:8443", NOW)
    near = make_federation(tmp_path / "near", "n", "localhost:8443", NOW)
    assert (far.settings.listen, near.settings.listen) == ("0.0.0.0:8443", "localhost:8443")
