"""Writing a comparison: one HTML page that stands alone, its numbers as JSON and CSV, its plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skinml.durable import make_folder, write_whole
from skinml.reports import compare_tables, numbers
from skinml.reports.compare_figures import plot_svg, plots_file
from skinml.reports.compare_record import ComparisonRecord, comparison_csv, comparison_to_json
from skinml.reports.compare_sides import changed_table, side_tables, worse_table
from skinml.reports.templating import filled_in
from skinml.reports.view import group_title, settings_table
from skinml.reports.wording import attribute_title, metric_words, unit_noun, unit_words

_QUESTIONS = ("gap", "group", "overall")


@dataclass(frozen=True)
class ComparisonFiles:
    """Where a comparison was written.

    Attributes:
        html: The page.
        json: Every number of the page.
        csv: Figures, gaps and changes as a table.
        plot: The plots by themselves.
    """

    html: Path
    json: Path
    csv: Path
    plot: Path


@dataclass(frozen=True)
class _Shown:
    title: str
    svg: str


def write_comparison(record: ComparisonRecord, folder: Path) -> ComparisonFiles:
    """Write compare.html, compare.json, compare.csv and compare.svg.

    Args:
        record: What the comparison may show.
        folder: Where the files go; made where it is missing. Files of these names are replaced.

    Returns:
        The paths of the files.

    Raises:
        EnvironmentProblem: If the files cannot be written.

    Guarantees:
        Each file is complete or absent.
    """
    files = ComparisonFiles(
        *(folder / f"compare.{kind}" for kind in ("html", "json", "csv", "svg"))
    )
    document = json.dumps(comparison_to_json(record), indent=1, ensure_ascii=False, allow_nan=False)
    page, plot = comparison_html(record), plots_file(compare_tables.plots(record))
    make_folder(folder, "folder of the comparison")
    write_whole(files.json, f"{document}\n".encode(), "comparison's figures")
    write_whole(files.csv, comparison_csv(record).encode(), "comparison's table")
    write_whole(files.plot, plot.encode(), "comparison's plot")
    write_whole(files.html, page.encode(), "comparison's page")
    return files


def comparison_html(record: ComparisonRecord) -> str:
    """Make the page.

    Args:
        record: What the comparison may show.

    Returns:
        HTML that needs no network and no script.
    """
    return filled_in("compare.html.j2", _context(record))


def _context(record: ComparisonRecord) -> dict[str, Any]:
    found = record.found
    one_seed = [arm.name for arm in record.arms if len(arm.runs) < 2]
    changes = [compare_tables.change_table(record, question) for question in _QUESTIONS]
    return {
        "record": record,
        "found": found,
        "people": unit_noun(record.unit_stands_for),
        "unit": unit_words(record.arms[-1].unit),
        "metric": metric_words(found.metric),
        "title_of": attribute_title,
        "group_of": group_title,
        "bare": [arm.name for arm in record.arms if not arm.private],
        "one_seed": one_seed,
        "seeds": max(len(arm.runs) for arm in record.arms),
        "seeds_words": _seeds(record),
        "harder": compare_tables.answers(record, ("gap",)),
        "signed": compare_tables.signed,
        "plots": [_Shown(each.title, plot_svg(each)) for each in compare_tables.plots(record)],
        "changed": changed_table(record),
        "sides": side_tables(record),
        "worse": worse_table(record),
        "arms": compare_tables.arms_table(record),
        "counts": compare_tables.counts_table(record),
        "figures": compare_tables.figure_tables(record),
        "worst": compare_tables.worst_table(record),
        "gaps": compare_tables.gap_tables(record),
        "changes": [each for each in changes if each.rows],
        "runs": compare_tables.runs_table(record),
        "config": settings_table("Settings that all arms share", record.config),
        "versions": settings_table("Versions", record.versions),
        "fmt": numbers,
    }


def _seeds(record: ComparisonRecord) -> str:
    """Say how many seeds each arm was run with: "3", or "2 to 3" where they differ."""
    counts = {len(arm.runs) for arm in record.arms}
    return str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
