"""Sealed bytes, keys on disk and keyed digests."""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinml.errors import ConfigError, EnvironmentProblem, IntegrityError
from skinml.stewardship.encryption import (
    PIECE_BYTES,
    SEAL_OVERHEAD_BYTES,
    derive_key,
    keyed_digest,
    keyed_digests,
    new_key,
    open_pieces,
    read_key,
    require_private,
    seal,
    seal_pieces,
    unseal,
    write_key,
)
from skinml.stewardship.pseudonyms import pseudonym, pseudonyms

KEY = bytes(range(32))


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_what_is_sealed_can_be_unsealed(plaintext, context):
    sealed = seal(KEY, plaintext, context=context)
    assert unseal(KEY, sealed, context=context) == plaintext
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD_BYTES


def test_every_changed_bit_is_noticed():
    sealed = seal(KEY, b"patient", context=b"here")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            unseal(KEY, bytes(changed), context=b"here")


@pytest.mark.parametrize("length", [0, 1, 12, 28, 29, 35])
def test_a_cut_seal_is_noticed(length):
    with pytest.raises(IntegrityError):
        unseal(KEY, seal(KEY, b"patient", context=b"")[:length], context=b"")


@pytest.mark.parametrize(
    ("key", "context"), [(KEY[::-1], b"here"), (KEY, b"there"), (KEY, b"")], ids=str
)
def test_another_key_or_context_is_noticed(key, context):
    with pytest.raises(IntegrityError):
        unseal(key, seal(KEY, b"patient", context=b"here"), context=context)


def test_the_same_bytes_are_never_sealed_alike_and_never_shine_through():
    plaintext = b"a patient's history" * 5
    seals = {seal(KEY, plaintext, context=b"") for _ in range(20)}
    assert len(seals) == 20
    assert not any(b"patient" in sealed for sealed in seals)


@pytest.mark.parametrize("key", [b"", b"short", bytes(16), bytes(33)], ids=len)
def test_a_key_of_another_length_is_refused(tmp_path, key):
    for use in (
        lambda: seal(key, b"", context=b""),
        lambda: unseal(key, bytes(64), context=b""),
        lambda: keyed_digest(key, b""),
        lambda: write_key(tmp_path / "key", key),
    ):
        with pytest.raises((ConfigError, IntegrityError)):
            use()
    assert not (tmp_path / "key").exists()


def test_a_keyed_digest_follows_rfc_2104_under_a_key_of_its_own():
    # HKDF-Expand of one block, RFC 5869 section 2.3.
    own = hmac.new(KEY, b"skinml/1/keyed-digest\x01", hashlib.sha256).digest()
    assert keyed_digest(KEY, b"x") == hmac.new(own, b"x", hashlib.sha256).hexdigest()


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_keyed_digests_agree_exactly_where_the_data_do(first, second):
    assert (keyed_digest(KEY, first) == keyed_digest(KEY, second)) == (first == second)
    assert keyed_digest(KEY, first) != keyed_digest(KEY[::-1], first)


def test_new_keys_differ():
    assert len({new_key() for _ in range(10)}) == 10
    assert len(new_key()) == 32


def test_a_key_comes_back_from_a_file_of_its_owner_only(tmp_path):
    path, key = tmp_path / "key", new_key()
    write_key(path, key)
    assert read_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_is_there_is_never_overwritten(tmp_path):
    write_key(tmp_path / "key", KEY)
    with pytest.raises(EnvironmentProblem, match="no key file yet"):
        write_key(tmp_path / "key", new_key())
    assert read_key(tmp_path / "key") == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_open_to_others_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "key"
    write_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(EnvironmentProblem, match="chmod 600"):
        read_key(path)


@pytest.mark.parametrize("content", [b"", b"skinml-key-1 AAAA\n", b"\xff\xfe", b"key " + KEY * 9])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path, content):
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        read_key(path)
    assert "AAAA" not in str(caught.value)


def test_a_missing_file_or_folder_is_the_environments_fault(tmp_path):
    with pytest.raises(EnvironmentProblem):
        read_key(tmp_path / "key")
    with pytest.raises(EnvironmentProblem):
        write_key(tmp_path / "none" / "key", KEY)


def pieces(content: bytes, context: str = "here") -> list[bytes]:
    return list(seal_pieces(KEY, content, context))


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_content_of_any_length_comes_back_from_its_pieces(size):
    content = bytes(range(256)) * (size // 256 + 1)
    sealed = pieces(content[:size])
    assert len(sealed) == max(1, -(-size // PIECE_BYTES))
    assert open_pieces(KEY, io.BytesIO(b"".join(sealed)), "here").read() == content[:size]


def test_pieces_are_read_from_the_files_place_on():
    file = io.BytesIO(b"header\n" + b"".join(pieces(b"lesion")))
    assert file.readline() == b"header\n"
    assert open_pieces(KEY, file, "here").read() == b"lesion"


def test_every_changed_byte_of_a_piece_is_noticed():
    sealed = b"".join(pieces(b"lesion"))
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(IntegrityError):
            open_pieces(KEY, io.BytesIO(bytes(changed)), "here")


@pytest.mark.parametrize(
    "order", [[0, 1], [1, 2], [2], [0, 2], [1, 0, 2], [0, 1, 1, 2], [0, 1, 2, 2], []], ids=str
)
def test_pieces_left_out_doubled_or_moved_are_noticed(order):
    whole = pieces(bytes(2 * PIECE_BYTES + 5))
    assert len(open_pieces(KEY, io.BytesIO(b"".join(whole)), "here").read()) == 2 * PIECE_BYTES + 5
    with pytest.raises(IntegrityError):
        open_pieces(KEY, io.BytesIO(b"".join(whole[piece] for piece in order)), "here")


def test_a_piece_of_other_content_is_noticed():
    first, other = pieces(bytes(PIECE_BYTES + 1)), pieces(bytes(PIECE_BYTES + 1), "there")
    with pytest.raises(IntegrityError):
        open_pieces(KEY, io.BytesIO(first[0] + other[1]), "here")


def test_many_digests_are_the_single_ones():
    items = [b"", b"x", b"x", b"y"]
    assert keyed_digests(KEY, items) == [keyed_digest(KEY, item) for item in items]


def test_a_key_file_of_another_user_is_refused(tmp_path):
    path = tmp_path / "key"
    write_key(path, KEY)
    status = path.stat()
    require_private(path, status)
    values = list(status)
    values[stat.ST_UID] = os.geteuid() + 1
    with pytest.raises(EnvironmentProblem, match="belongs to you or to root"):
        require_private(path, os.stat_result(values))


def test_pseudonyms_hang_on_the_clinic_and_the_patient_only():
    names = pseudonyms(KEY, ["Ada", "Bo", "Ada"])
    assert names == [pseudonym(KEY, "Ada"), pseudonym(KEY, "Bo"), pseudonym(KEY, "Ada")]
    assert names[0] == keyed_digest(derive_key(KEY, "pseudonym"), b"Ada")[:32]
    assert pseudonym(KEY, "Ada") != pseudonym(KEY[::-1], "Ada")
