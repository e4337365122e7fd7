"""What a record keeps as plain values, read back: criteria, gaps, curves."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from skinml.errors import DataError
from skinml.fairness.acceptance import Judged, judge
from skinml.fairness.criteria import Criterion
from skinml.fairness.curves import GroupCurves, curves_from
from skinml.fairness.gaps import Gaps, gaps_from
from skinml.records import RunRecord

_CRITERIA = TypeAdapter(tuple[Criterion, ...])


def gaps_of(record: RunRecord) -> Gaps | None:
    """Read the comparisons of groups of a record.

    Args:
        record: What the run may show.

    Returns:
        The comparisons; None: none were made.

    Raises:
        DataError: If they are of another form.
    """
    if record.gaps is None:
        return None
    try:
        return gaps_from(record.gaps)
    except ValidationError as error:
        raise _strange("gaps", error) from None


def curves_of(record: RunRecord) -> tuple[GroupCurves, ...]:
    """Read the curves of a record.

    Args:
        record: What the run may show.

    Returns:
        The curves; empty where there are none.

    Raises:
        DataError: If they are of another form.
    """
    try:
        return curves_from(record.curves)
    except ValidationError as error:
        raise _strange("curves", error) from None


def judged(record: RunRecord) -> tuple[Judged, ...]:
    """Hold a record against the criteria of its own config.

    Args:
        record: What the run may show.

    Returns:
        A judgement a criterion; empty where the config has none.

    Raises:
        DataError: If the criteria or the comparisons are of another form.
    """
    fairness = record.config.get("fairness")
    plain = fairness.get("acceptance", ()) if isinstance(fairness, dict) else ()
    try:
        criteria = _CRITERIA.validate_python(plain)
    except ValidationError as error:
        raise _strange("acceptance", error) from None
    return judge(criteria, record.overall, record.groups, gaps_of(record), expected_groups(record))


def expected_groups(record: RunRecord) -> dict[str, tuple[str, ...]]:
    """Find the groups that the config of a record says there are.

    Args:
        record: What the run may show.

    Returns:
        For each attribute their names: `fairness.expected`, else `fairness.order`, else the names
        of `data.bins`. An attribute that none of them has is not there.
    """
    data, fairness = (record.config.get(name) for name in ("data", "fairness"))
    places = (data, "bins"), (fairness, "order"), (fairness, "expected")
    found: dict[str, tuple[str, ...]] = {}
    for section, name in places:
        plain = section.get(name) if isinstance(section, dict) else None
        if isinstance(plain, dict):
            found |= {str(key): tuple(map(str, values)) for key, values in plain.items()}
    return found


def _strange(what: str, error: ValidationError) -> DataError:
    first = error.errors(include_input=False, include_url=False)[0]
    return DataError(
        rule=f"{what} as this release of skinml writes them",
        got=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
        do="Pass a report that skinml wrote.",
    )
