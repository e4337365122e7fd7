"""Words that may stand beside a picture, by column; what is none of them is kept as "other".

Diagnoses, sites and tones have the taxonomy, and sex, series and malignant their few words. The
columns here have short lists of skinml's own, to which a clinic adds in its import file. So no name
and no remark passes as a treatment, however short it is, unless the clinic itself declared it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from skinml.data.taxonomy import normalise

OTHER = "other"

SHIPPED: Mapping[str, frozenset[str]] = {
    column: frozenset(words.split(", "))
    for column, words in {
        "modality": "clinical, clinical closeup, close up, closeup, overview, macroscopic, "
        "dermoscopic, dermoscopy, dermatoscopic, trichoscopic, trichoscopy, total body, "
        "photograph, photo, smartphone, ultraviolet, wood lamp, confocal, other, unknown",
        "confirmation": "histopathology, histology, biopsy, clinical, consensus, "
        "single image expert consensus, expert, follow up, serial imaging, confocal, "
        "confocal microscopy, dermoscopy, laboratory, culture, microscopy, other, none, unknown",
        "treatment": "none, observation, watchful waiting, excision, surgery, mohs surgery, "
        "shave excision, biopsy, curettage, electrodesiccation, cryotherapy, laser, phototherapy, "
        "photodynamic therapy, radiotherapy, chemotherapy, immunotherapy, targeted therapy, "
        "topical, topical steroid, topical retinoid, topical antibiotic, topical antifungal, "
        "emollient, imiquimod, fluorouracil, minoxidil, finasteride, isotretinoin, antihistamine, "
        "antibiotic, antifungal, antiviral, steroid, methotrexate, biologic, systemic, "
        "transplantation, microneedling, platelet rich plasma, other, unknown",
        "outcome": "healed, cleared, cured, complete response, partial response, no response, "
        "improved, better, good, unchanged, stable, same, worse, progressed, recurred, relapsed, "
        "removed, ongoing, lost to follow up, metastasis, died, alive, other, unknown",
        "genetic": "wild type, mutated, mutation, positive, negative, yes, no, heterozygous, "
        "homozygous, not tested, none, other, unknown",
        "financial": "paid, unpaid, open, insured, uninsured, private, public, statutory, self, "
        "yes, no, none, other, unknown",
    }.items()
}
"""By column, the words that skinml ships, as `normalise` writes them."""

COLUMNS = tuple(SHIPPED)

# A closed list: a letter or two and digits would be initials and a year as well.
_GENES = (
    "ABCA12, AKT1, ALK, ALOX12B, ALOXE3, ARID2, ASIP, ATM, ATP2A2, ATP2C1, BAP1, BRAF, BRCA1, "
    "BRCA2, CARD14, CDK4, CDKN2A, COL17A1, COL7A1, CYLD, EGFR, EIF1AX, EPCAM, ERBB2, ERCC2, "
    "ERCC3, FGFR3, FH, FLCN, FLG, GNA11, GNAQ, HRAS, IDH1, IDH2, IL36RN, IRF4, JAK1, JAK2, JAK3, "
    "KIT, KRAS, KRT1, KRT10, KRT14, KRT5, LAMA3, LAMB3, LAMC2, LZTR1, MAP2K1, MAP2K2, MC1R, MEN1, "
    "MET, MITF, MLH1, MSH2, MSH6, NF1, NF2, NRAS, NTRK1, NTRK2, NTRK3, OCA2, PALB2, PIK3CA, "
    "PMS2, POT1, PTCH1, PTCH2, PTEN, RAC1, RB1, RET, ROS1, SF3B1, SLC45A2, SMO, STAT3, STK11, "
    "SUFU, TERT, TGM1, TP53, TSC1, TSC2, TYR, TYRP1, XPA, XPC"
)
_AMINO = (
    r"(?:Ala|Arg|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val|Ter|"
    r"[ACDEFGHIKLMNPQRSTVWY])"
)
_AFTER = rf"(?:{_AMINO}|\*|=|fs(?:\*\d{{1,3}})?|del|dup)"
_BASES = r"(?:[ACGT]>[ACGT]|(?:del|dup|ins)[ACGT]{0,6}|=)"
# Of HGVS (Den Dunnen et al. 2016) the short forms; those whose ranges name amino acids are not.
_VARIANT = (
    r"(?:rs[1-9]\d{2,9}|[ACGT]/[ACGT]"
    rf"|p\.{_AMINO}\d{{1,4}}{_AFTER}?|{_AMINO}\d{{1,3}}{_AFTER}?"
    rf"|c\.[*-]?\d{{1,5}}(?:[+-]\d{{1,4}})?(?:_\d{{1,5}})?{_BASES}"
    rf"|g\.\d{{1,9}}(?:_\d{{1,9}})?{_BASES})"
)
_GENETIC = rf"(?=\S{{1,20}}(?:[ :,;/]|$))(?:(?:{_GENES.replace(', ', '|')})|{_VARIANT})"
_CURRENCY = (
    "(?:AED|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|ILS|INR|JPY|KRW|MXN|NOK|NZD|PLN|RON|SAR|"
    "SEK|SGD|THB|TRY|TWD|USD|ZAR|[$€£¥₹])"
)
_AMOUNT = r"(?:0|[1-9][0-9]{0,5})(?:[.,][0-9]{2})?"
_CODES: Mapping[str, re.Pattern[str]] = {
    "genetic": re.compile(rf"{_GENETIC}(?:[ :,;/]{{1,2}}{_GENETIC}){{0,5}}", re.ASCII),
    "financial": re.compile(rf"(?:{_CURRENCY} ?)?{_AMOUNT}|{_AMOUNT} ?{_CURRENCY}"),
}
_DIGITS = re.compile(r"(?:\d[ ./-]?){5,}")


def allowed_words(column: str, more: Collection[str] = ()) -> frozenset[str]:
    """List the words that may stand in a column.

    Args:
        column: One of `COLUMNS`.
        more: Words that the clinic declared.

    Returns:
        The words, as `normalise` writes them.
    """
    return SHIPPED[column] | {normalise(word) for word in more if word}


def is_allowed(column: str, cell: str, words: Collection[str]) -> bool:
    """Tell whether a cell is a word of its column, or a code that has its place there.

    Args:
        column: One of `COLUMNS`.
        cell: The cell.
        words: From `allowed_words`.

    Returns:
        Whether it is; an empty cell is.

    >>> words = allowed_words("treatment", ["Salicylic acid"])
    >>> [is_allowed("treatment", cell, words) for cell in ("Excision", "salicylic_acid", "Ann Lee")]
    [True, True, False]
    """
    return not cell or normalise(cell) in words or is_code(column, cell)


def is_code(column: str, cell: str) -> bool:
    """Tell whether a cell is a gene or a variant among genetic ones, an amount among financial.

    What fits is short and of a closed form: a name, a birth date, an account or a telephone number
    written as people write them does not fit. A number that somebody means to hide in one can.

    Args:
        column: Any column.
        cell: The cell.

    Returns:
        Whether it is; in other columns nothing is.

    >>> [is_code("genetic", cell) for cell in ("BRAF V600E", "c.1799T>A", "p.Ann1", "LEE 5")]
    [True, True, False, False]
    >>> [is_code("financial", cell) for cell in ("EUR 120.50", "LEE 5", "0171 5551234")]
    [True, False, False]
    """
    codes = _CODES.get(column)
    return codes is not None and codes.fullmatch(cell) is not None


def looks_personal(word: str) -> bool:
    """Tell whether a word that a clinic declares looks like a name or a number of a person.

    Args:
        word: The word.

    Returns:
        Whether two words of letters side by side begin with capitals, or five digits stand in a
        row, spaces, points, strokes and hyphens between them or not. What is written small passes:
        whoever declares a word answers for it.

    >>> [looks_personal(word) for word in ("Ann Lee", "0171 5551234", "EGFR T790M", "zinc paste")]
    [True, True, False, False]
    """
    parts = [part for part in re.split(r"[\s,;_]+", word) if part]
    names = [part[0].isupper() and not any(map(str.isdigit, part)) for part in parts]
    return any(map(all, pairwise(names))) or _DIGITS.search(word) is not None


def coarsened(
    column: str, cells: Sequence[str], more: Collection[str] = ()
) -> tuple[list[str], int]:
    """Put "other" in the place of what is no word of a column.

    Args:
        column: One of `COLUMNS`.
        cells: Its cells, one a row.
        more: Words that the clinic declared.

    Returns:
        The cells as they may be kept, and how many were replaced.

    >>> coarsened("outcome", ["healed", "Ann Lee", ""])
    (['healed', 'other', ''], 1)
    """
    words = allowed_words(column, more)
    kept = [cell if is_allowed(column, cell, words) else OTHER for cell in cells]
    return kept, sum(a != b for a, b in zip(kept, cells, strict=True))
