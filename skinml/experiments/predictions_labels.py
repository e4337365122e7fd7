"""The words of a column, numbered, and what the words of a label mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from skinml.errors import DataError
from skinml.records import IntArray, Labels

YES = ("1", "true", "t", "yes", "y", "positive", "pos", "malignant", "cancer")
NO = ("0", "false", "f", "no", "n", "negative", "neg", "benign", "not malignant", "other")
_MAX_WORDS = 1000
_SHOWN_WORDS = 6


class Coded:
    """Numbers the words of one column in the order in which they come.

    Args:
        column: The column's name.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self._numbers: dict[str, int] = {}

    @property
    def words(self) -> list[str]:
        """The words by their numbers."""
        return list(self._numbers)

    def codes(self, column: pa.Array) -> IntArray:
        """Number one batch.

        Args:
            column: (n,) text.

        Returns:
            (n,) the words' numbers; -1 where there is none.

        Raises:
            DataError: If the column has so many different words that it is none of groups.
        """
        coded = column.dictionary_encode()
        for word in coded.dictionary.to_pylist():
            self._numbers.setdefault(word, len(self._numbers))
        if len(self._numbers) > _MAX_WORDS:
            raise DataError(
                rule="a column of classes or groups",
                got=f"{self.column} with more than {_MAX_WORDS} different values",
                do="Name the right column, or put values into bands first.",
            )
        table = np.array(
            [*(self._numbers[word] for word in coded.dictionary.to_pylist()), -1], dtype=np.int64
        )
        indices = coded.indices.fill_null(len(table) - 1)
        return np.asarray(table[indices.to_numpy(zero_copy_only=False)])


@dataclass(frozen=True)
class Classes:
    """What a file's labels mean.

    Attributes:
        labels: The classes in the order of the scores; with one score the second is looked for.
        index: For each number of a label's word, its class.
        index_of: For each word a decision may be written in, in lower case, its class.
        positive: The words that count as what is looked for.
    """

    labels: Labels
    index: IntArray
    index_of: Mapping[str, int]
    positive: tuple[str, ...]


def classes_of(
    coded: Coded,
    codes: IntArray,
    *,
    scores: Sequence[str],
    positive: Sequence[str],
    given: Sequence[str],
    num_rows: int,
) -> Classes:
    """Work out what the labels of a file mean.

    Args:
        coded: The label's words.
        codes: (n,) the rows' labels.
        scores: The columns of scores.
        positive: The words that the user says count as what is looked for.
        given: With several scores, the word of each.
        num_rows: Rows of the file.

    Returns:
        The classes.

    Raises:
        DataError: If the words cannot be understood, or all rows are of one kind.
    """
    chosen = {word.lower() for word in positive}
    _require_present(coded, positive, given or scores, num_rows)
    if len(scores) == 1:
        found = _two(coded, chosen, num_rows)
    else:
        found = _many(coded, chosen, given or scores, num_rows)
    kinds = {found.labels.malignant[each] for each in found.index[np.unique(codes)]}
    if len(kinds) < 2:
        which = "looked for" if True in kinds else "not looked for"
        raise DataError(
            rule=f"rows of both kinds in {coded.column}",
            got=f"num_rows={num_rows}, all {which}",
            do="Check the column, and --positive; with one kind alone nothing can be compared.",
        )
    return found


def _require_present(
    coded: Coded, positive: Sequence[str], classes: Sequence[str], num_rows: int
) -> None:
    known = {word.lower() for word in (*coded.words, *classes)}
    for word in positive:
        if word.lower() not in known:
            raise DataError(
                rule=f"a label that is in the column {coded.column}",
                got=f"--positive {word}; {shown_words(coded, num_rows)}",
                do="Write it as the file does.",
            )


def _two(coded: Coded, chosen: set[str], num_rows: int) -> Classes:
    lower = [word.lower() for word in coded.words]
    if not chosen:
        strange = [word for word in lower if word not in (*YES, *NO)]
        if strange:
            raise DataError(
                rule=f"labels of {coded.column} such as 1 and 0, or malignant and benign",
                got=shown_words(coded, num_rows),
                do="Say which count as what is looked for: --positive WORD, as often as needed.",
            )
        chosen = {word for word in lower if word in YES}
    index = np.array([int(word in chosen) for word in lower], dtype=np.int64)
    yes = tuple(word for word in coded.words if word.lower() in chosen)
    no = tuple(word for word in coded.words if word.lower() not in chosen)
    names = (_name(no, NO, "not malignant"), _name(yes, YES, "malignant"))
    spoken = dict.fromkeys(NO, 0) | dict.fromkeys(YES, 1)
    return Classes(
        Labels(names, (False, True)),
        index,
        spoken | dict(zip(lower, index.tolist(), strict=True)),
        yes,
    )


def _name(words: Sequence[str], usual: Sequence[str], otherwise: str) -> str:
    if all(word.lower() in usual for word in words):
        return otherwise
    return " or ".join(words) if len(words) <= 3 else "all others"


def _many(coded: Coded, chosen: set[str], given: Sequence[str], num_rows: int) -> Classes:
    place = {word.lower(): at for at, word in enumerate(given)}
    lower = [word.lower() for word in coded.words]
    strange = [word for word in lower if word not in place]
    if strange or len(place) < len(given):
        raise DataError(
            rule=f"labels of {coded.column} among the classes {', '.join(given)}",
            got=f"{len(strange)} other values; {shown_words(coded, num_rows)}",
            do="Name the class of each --score with --classes, in the order of the scores.",
        )
    if not chosen:
        raise DataError(
            rule="to know which classes count as what is looked for",
            got=f"classes={', '.join(given)}",
            do="Say it with --positive WORD, as often as needed.",
        )
    malignant = tuple(word.lower() in chosen for word in given)
    index = np.array([place[word] for word in lower], dtype=np.int64)
    yes = tuple(word for word in given if word.lower() in chosen)
    return Classes(Labels(tuple(given), malignant), index, place, yes)


def shown_words(coded: Coded, num_rows: int) -> str:
    """Name a column's words, unless they may be patients.

    Args:
        coded: The column.
        num_rows: Rows of the file.

    Returns:
        The words, where they are few and come often; their number else.
    """
    words = coded.words
    if len(words) > _SHOWN_WORDS or len(words) > max(2, num_rows // 2):
        return f"{coded.column} has {len(words)} different values"
    return f"{coded.column} has {', '.join(words)}"
