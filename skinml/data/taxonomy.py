"""Words of many sources to shared diagnoses, malignancy, sites, tone scales and treatments."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from skinml.errors import ConfigError

_SHIPPED = Path(__file__).with_name("taxonomy.yaml")
_EVERYWHERE = ""

Words = Mapping[str, Mapping[str, str]]


class _Diagnosis(BaseModel):
    model_config = ConfigDict(extra="forbid")
    malignant: bool
    words: tuple[str, ...] = ()


class _Dataset(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tone_scale: str | None = None
    diagnosis: dict[str, str] = {}
    anatomical_site: dict[str, str] = {}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: str = ""
    diagnoses: dict[str, _Diagnosis] = {}
    anatomical_sites: dict[str, tuple[str, ...]] = {}
    treatments: dict[str, tuple[str, ...]] = {}
    outcomes: dict[str, tuple[str, ...]] = {}
    tone_scales: dict[str, dict[str, tuple[str, ...]]] = {}
    datasets: dict[str, _Dataset] = {}


@dataclass(frozen=True)
class Taxonomy:
    """What the words of manifests mean.

    Attributes:
        version: The shipped file's version, with a digest of the clinic's extension behind it.
        malignant: For each shared diagnosis, whether it counts as malignant.
        diagnosis_words: For each dataset ("" for all of them), normalised word to diagnosis.
        site_words: The same for anatomical sites.
        tone_words: For each tone scale, normalised word to the scale's value.
        dataset_scales: The tone scale of a dataset whose manifest does not name one.
        course_words: For "treatment" and "outcome", normalised word to group.
    """

    version: str
    malignant: Mapping[str, bool]
    diagnosis_words: Words
    site_words: Words
    tone_words: Words
    dataset_scales: Mapping[str, str]
    course_words: Words

    def diagnoses(self, words: Sequence[str], datasets: Sequence[str]) -> Mapped:
        """Translate diagnoses, a dataset's own meaning of a word first.

        Args:
            words: (n,) words as written; empty ones stay empty.
            datasets: (n,) names of datasets; empty where a row has none.

        Returns:
            The shared names, and the words without one.
        """
        return _translate(words, datasets, self.diagnosis_words)

    def sites(self, words: Sequence[str], datasets: Sequence[str]) -> Mapped:
        """Translate anatomical sites, a dataset's own meaning of a word first.

        Args:
            words: (n,) words as written; empty ones stay empty.
            datasets: (n,) names of datasets; empty where a row has none.

        Returns:
            The shared names, and the words without one.
        """
        return _translate(words, datasets, self.site_words)

    def tones(self, words: Sequence[str], scales: Sequence[str]) -> Mapped:
        """Bring skin tones into the spelling of their own scale. No scale becomes another.

        Args:
            words: (n,) tones as written; empty ones stay empty.
            scales: (n,) the scale of each.

        Returns:
            The tones, and those that their scale does not have.
        """
        numbers = {word: re.sub(r"\.0+$", "", word) for word in set(words)}
        return _translate([numbers[word] for word in words], scales, self.tone_words)

    def courses(self, column: str, words: Sequence[str]) -> tuple[str, ...]:
        """Bring treatments, or outcomes, into their few shared groups.

        Args:
            column: "treatment" or "outcome".
            words: (n,) words as written; empty ones stay empty.

        Returns:
            (n,) the group of each; "other" where a word is in none.
        """
        known = self.course_words[column]
        group = {word: known.get(normalise(word), "other") for word in set(words) if word}
        return tuple(group.get(word, "") for word in words)


@dataclass(frozen=True)
class Mapped:
    """Translated words.

    Attributes:
        names: (n,) shared names, empty where there was no word or no meaning.
        unmapped: Words without a meaning, as written, with how often they occur.
    """

    names: tuple[str, ...]
    unmapped: Mapping[str, int]


def normalise(word: str) -> str:
    """Bring a word into the form in which words are compared.

    Args:
        word: As a source writes it.

    Returns:
        Lower case, with "_", "-" and runs of blanks as one blank.

    Example:
        >>> normalise(" Lower_extremity ")
        'lower extremity'
    """
    # A leading hyphen stays: Fitzpatrick17k writes "-1" for a tone that nobody knows.
    return " ".join(re.sub(r"_|\s|(?<=\S)-", " ", word.strip().casefold()).split())


def load_taxonomy(extra: Path | None = None) -> Taxonomy:
    """Load the shipped taxonomy, and a clinic's extension of it.

    Args:
        extra: The clinic's YAML file, of the same shape as `skinml/data/taxonomy.yaml`.

    Returns:
        The taxonomy.

    Raises:
        ConfigError: If the file is missing, has another shape, gives a word a meaning that is not
            a shared name, or changes whether a shipped diagnosis counts as malignant.
    """
    shipped = _read(_SHIPPED)
    if extra is None:
        return _build(shipped, _File(), shipped.version)
    extension = _read(extra)
    for name, diagnosis in extension.diagnoses.items():
        known = shipped.diagnoses.get(name)
        if known is not None and known.malignant != diagnosis.malignant:
            raise ConfigError(
                rule=f"{name} with malignant: {str(known.malignant).lower()} as shipped",
                got=f"malignant: {str(diagnosis.malignant).lower()}",
                do="Add a diagnosis of another name, or use the manifest's column malignant.",
            )
    digest = hashlib.sha256(extra.read_bytes()).hexdigest()[:8]
    return _build(shipped, extension, f"{shipped.version}+{digest}")


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        found = f"{where}: {first['msg']}"
    except (OSError, UnicodeDecodeError) as error:
        found = f"{path.name}: {type(error).__name__}"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        found = "broken YAML" + (f" in line {mark.line + 1}" if mark else "")
    raise ConfigError(
        rule="a taxonomy of the shape of skinml/data/taxonomy.yaml",
        got=found,
        do=f"Correct {path.name}.",
    )


def _build(shipped: _File, extension: _File, version: str) -> Taxonomy:
    malignant: dict[str, bool] = {}
    diagnosis_words: dict[str, dict[str, str]] = {_EVERYWHERE: {}}
    site_words: dict[str, dict[str, str]] = {_EVERYWHERE: {}}
    tone_words: dict[str, dict[str, str]] = {}
    course_words: dict[str, dict[str, str]] = {"treatment": {}, "outcome": {}}
    scales: dict[str, str] = {}
    for file in (shipped, extension):
        malignant |= {name: diagnosis.malignant for name, diagnosis in file.diagnoses.items()}
        for name, diagnosis in file.diagnoses.items():
            _add(diagnosis_words[_EVERYWHERE], name, diagnosis.words)
        for name, words in file.anatomical_sites.items():
            _add(site_words[_EVERYWHERE], name, words)
        for column, told in (("treatment", file.treatments), ("outcome", file.outcomes)):
            for name, words in told.items():
                _add(course_words[column], name, words)
        for scale, values in file.tone_scales.items():
            for value, words in values.items():
                _add(tone_words.setdefault(scale, {}), value, words)
        for dataset, own in file.datasets.items():
            diagnosis_words.setdefault(dataset, {}).update(_normalised(own.diagnosis))
            site_words.setdefault(dataset, {}).update(_normalised(own.anatomical_site))
            if own.tone_scale is not None:
                scales[dataset] = own.tone_scale
    for names, meanings in (
        (set(malignant), diagnosis_words),
        (set(site_words[_EVERYWHERE].values()), site_words),
    ):
        _require_shared(names, meanings)
    unknown = set(scales.values()) - set(tone_words)
    if unknown:
        raise ConfigError(
            rule=f"tone_scale one of {', '.join(sorted(tone_words))}",
            got=f"tone_scale={', '.join(sorted(unknown))}",
            do="Name one of these, or add it under tone_scales.",
        )
    return Taxonomy(
        version, malignant, diagnosis_words, site_words, tone_words, scales, course_words
    )


def _add(meanings: dict[str, str], name: str, words: Sequence[str]) -> None:
    for word in (name, *words):
        meanings[normalise(word)] = name


def _normalised(meanings: Mapping[str, str]) -> dict[str, str]:
    return {normalise(word): name for word, name in meanings.items()}


def _require_shared(names: set[str], meanings: Words) -> None:
    unknown = sorted({name for words in meanings.values() for name in words.values()} - names)
    if unknown:
        raise ConfigError(
            rule="words that mean a shared name of the taxonomy",
            got=f"the meanings {', '.join(unknown)}",
            do="Add these names to the taxonomy, or use one that it has.",
        )


def _translate(words: Sequence[str], sources: Sequence[str], meanings: Words) -> Mapped:
    pairs = list(zip(words, sources, strict=True))
    known: dict[tuple[str, str], str] = {}
    for pair in pairs:  # each word of a source is looked up once, however often it stands there
        if pair not in known:
            known[pair] = _meaning(*pair, meanings)
    unknown = {pair for pair, name in known.items() if not name and normalise(pair[0])}
    unmapped = Counter(pair[0].strip() for pair in pairs if pair in unknown) if unknown else {}
    return Mapped(tuple(known[pair] for pair in pairs), dict(unmapped))


def _meaning(word: str, source: str, meanings: Words) -> str:
    key = normalise(word)
    return meanings.get(source, {}).get(key) or meanings.get(_EVERYWHERE, {}).get(key, "")
