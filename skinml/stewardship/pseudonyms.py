"""The name by which a clinic's own files speak of a patient."""

from __future__ import annotations

from collections.abc import Sequence

from skinml.stewardship.encryption import derive_key, keyed_digests

PSEUDONYM_DIGITS = 32


def pseudonym(key: bytes, patient: str) -> str:
    """Name a patient inside one clinic.

    Args:
        key: The clinic's key.
        patient: The clinic's own id of the patient: never log.

    Returns:
        32 hexadecimal digits.

    Raises:
        ConfigError: If the key is not 32 bytes.

    Guarantees:
        Without the clinic's key nobody can compute or test it, even knowing every id; another
        clinic names the same person otherwise. It is still a pseudonym and not anonymous: the
        clinic, which has the key, can tell whose it is, and one patient's entries can be told to
        be one patient's.
    """
    return pseudonyms(key, (patient,))[0]


def pseudonyms(key: bytes, patients: Sequence[str]) -> list[str]:
    """Name many patients as `pseudonym` does.

    Args:
        key: The clinic's key.
        patients: The clinic's own ids; one may come twice.

    Returns:
        A pseudonym for each, in order.

    Raises:
        ConfigError: If the key is not 32 bytes.
    """
    own = derive_key(key, "pseudonym")
    digests = keyed_digests(own, (patient.encode() for patient in patients))
    return [digest[:PSEUDONYM_DIGITS] for digest in digests]
