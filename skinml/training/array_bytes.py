"""Named arrays as one byte string, for files that are sealed or digested as a whole."""

from __future__ import annotations

import io

import numpy as np

from skinml.records import Arrays


def write_arrays(arrays: Arrays) -> bytes:
    """Put arrays into one byte string.

    Args:
        arrays: Arrays by name.

    Returns:
        The bytes.
    """
    content = io.BytesIO()
    np.savez(content, **dict(arrays))  # type: ignore[arg-type]  # names as keywords
    return content.getvalue()


def read_arrays(content: bytes) -> Arrays:
    """Read what `write_arrays` wrote; nothing is unpickled.

    Args:
        content: The bytes.

    Returns:
        The arrays by name.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        return {name: held[name] for name in held.files}
