"""Everything else that somebody could put into a message: made from a real one, a change each."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

PATIENT = "p0017"
Mutation = tuple[str, RecordDict]


def mutations(content: RecordDict, *, own: bool = False) -> Iterator[Mutation]:
    """Change a message in every way that nobody should let through.

    Args:
        content: A real message.
        own: Whether its arrays must have the values that they have: a query may have others.
    """
    yield "nothing", RecordDict({})
    extra = {
        "metrics": MetricRecord({"loss": 0.3, "num-examples": 40}),
        "config": ConfigRecord({"patients": [PATIENT]}),
        "arrays": ArrayRecord({PATIENT: Array(np.ones(3))}),
        PATIENT: ConfigRecord({}),
    }
    for name, record in extra.items():
        yield f"a record {name}", RecordDict({**content, name: record})
    for name, record in content.items():
        yield f"no {name}", RecordDict({n: r for n, r in content.items() if n != name})
        yield f"{name} under another name", RecordDict({PATIENT: record, **_without(content, name)})
        for kind in (MetricRecord, ConfigRecord, ArrayRecord):
            if not isinstance(record, kind):
                yield f"{name} as {kind.__name__}", RecordDict({**content, name: kind()})
        inner = _values(record) if isinstance(record, ConfigRecord) else _arrays(record, own)
        for what, changed in inner:
            yield f"{name}: {what}", RecordDict({**content, name: changed})


def _without(content: RecordDict, name: str) -> dict:
    return {key: record for key, record in content.items() if key != name}


def _values(record: ConfigRecord) -> Iterator[tuple[str, ConfigRecord]]:
    values = dict(record)
    yield "a number more", ConfigRecord(values | {"num_patients": 17})
    yield "words more", ConfigRecord(values | {"note": f"{PATIENT} has a melanoma"})
    yield "a patient for a key", ConfigRecord(values | {PATIENT: 1})
    for key, value in values.items():
        yield f"no {key}", ConfigRecord({k: v for k, v in values.items() if k != key})
        for other in _others(value):
            yield f"{key}={other!r:.40}", ConfigRecord(values | {key: other})


def _others(value: object) -> list[object]:
    """Values of other types, and longer ones of its own."""
    if isinstance(value, list):
        return [[*value, PATIENT], value[:-1], PATIENT, [1, 2], [], 7]
    others = [1.5, float("nan"), [PATIENT], [0.3, 0.7], True]
    if isinstance(value, int):
        return [*others, str(value), b"1", -1, 2**40]
    if isinstance(value, str):
        lines = [f"{value}\n{PATIENT}", "x" * 100_000, f"{value} {PATIENT}"]
        return [*others, 7, value.encode(), *lines]
    assert isinstance(value, bytes)
    longer = [value + b"x", value + PATIENT.encode()]
    return [*others, 7, PATIENT, *longer, *([value[:-1], b""] if value else [])]


def array_changes(values: np.ndarray) -> Iterator[tuple[str, Array]]:
    """Arrays that are not the one planned: another type, shape or rank, or no finite numbers."""
    for dtype in ("float16", "float32", "longdouble", "int64", "uint8", "bool", "complex128"):
        if values.dtype != dtype:
            yield f"as {dtype}", Array(values.real.astype(dtype))
    yield "of the other byte order", Array(values.astype(values.dtype.newbyteorder(">")))
    yield "of words", Array(np.array([PATIENT] * 3))
    yield "of bytes", Array(np.array([PATIENT.encode()] * 3))
    yield "of fields", Array(np.zeros(3, [("age", "f8"), ("label", "i8")]))
    yield "empty", Array(values[:0])
    yield "longer", Array(np.concatenate([values, values[:1]]))
    yield "of another rank", Array(values[..., None])
    yield (
        "huge",
        Array(np.zeros((10**6 // max(values[0].size, 1), *values.shape[1:]), values.dtype)),
    )
    for number in (np.nan, np.inf, -np.inf):
        changed = values.copy()
        changed.flat[0] = number
        yield f"with {number}", Array(changed)


def byte_changes(values: np.ndarray) -> Iterator[tuple[str, Array]]:
    """The planned values, with something beside them."""
    whole = Array(values)

    def made(data: bytes | None = None, **changes: object) -> Array:
        told = {"dtype": whole.dtype, "shape": tuple(whole.shape), "stype": whole.stype}
        return Array(**(told | changes), data=whole.data if data is None else data)

    yield "bytes behind", made(whole.data + PATIENT.encode())
    yield "bytes cut off", made(whole.data[:-1])
    yield "a padded head", made(whole.data.replace(b" \n", b"\t\n", 1))
    yield "no array", made(PATIENT.encode())
    yield "a pickle", made(pickle.dumps({PATIENT: 1}))
    yield "an archive", made(_archive(values))
    yield "a broken archive", made(_archive(values)[:40])
    yield "in columns", made(_by_columns(values))
    yield "a type in words", made(dtype=PATIENT)
    yield "another shape outside", made(shape=(17,))
    yield "another kind outside", made(stype=PATIENT)


def _arrays(record: ArrayRecord, own: bool) -> Iterator[tuple[str, ArrayRecord]]:
    yield "an array more", ArrayRecord({**record, "loss": Array(np.ones(3))})
    yield "a patient's array", ArrayRecord({**record, PATIENT: Array(np.ones(3))})
    for name, array in record.items():
        rest = {key: other for key, other in record.items() if key != name}
        yield f"no {name}", ArrayRecord(rest)
        yield f"{name} renamed", ArrayRecord({**rest, PATIENT: array})
        values = array.numpy()
        for what, changed in (*array_changes(values), *byte_changes(values)):
            yield f"{name} {what}", ArrayRecord({**rest, name: changed})
        if own:
            yield f"{name} off the grid", ArrayRecord({**rest, name: Array(values + 1e-13)})


def _archive(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, values=values)
    return stream.getvalue()


def _by_columns(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    rows = np.asfortranarray(np.stack([values, values]))
    np.save(stream, rows)
    return stream.getvalue()
