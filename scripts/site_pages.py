"""Pages of the site that are made from what they describe, and mathematics without a script.

mkdocs.yml names this file as a hook. README.md becomes the first page; commands, settings and the
rooms' modules get pages of their own, from the command line's tree, from pydantic's fields and from
docstrings, so that none can say something else than the code does.
"""

from __future__ import annotations

import collections.abc
import html
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "errors": "Errors and exit codes",
    "seeding": "Random streams",
    "records": "Values that cross rooms",
    "data": "Manifests, splits, images, drawn cohorts",
    "stewardship": "Admissibility, consent, keys, logs",
    "models": "Networks and backbones",
    "privacy": "Accounting, ledgers, noise, audits",
    "training": "Recipes",
    "federated": "Clinics, coordinator, secure sums",
    "fairness": "Figures and intervals by group",
    "reports": "Reports, criteria",
    "tracking": "MLflow",
    "clinic": "A clinic's folder and desk",
    "deployment": "Real machines",
    "config": "Configs",
    "experiments": "From config to report",
}
OF_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"\]\(([^)#:]+)((?:#[^)]*)?)\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: Any) -> Any:
    """List the rooms' pages below the page about Python."""
    rooms = [{f"skinml.{room}": f"reference/python-{room}.md"} for room in ROOMS]
    for section in config.nav:
        for entry in section.get("Reference", ()):
            if "Python" in entry:
                entry["Python"] = [entry["Python"], *rooms]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside of docs/ or are made from code."""
    from mkdocs.structure.files import File

    sys.path[:0] = [str(ROOT)]
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Write formulas as MathML, which browsers draw themselves."""
    return FORMULA.sub(formula, content)


def formula(found: re.Match[str]) -> str:
    """One formula's MathML."""
    kind = "block" if found[1] == "div" else "inline"
    return convert(html.unescape(found[2]).strip(), display=kind)


def pages() -> Iterator[tuple[str, str]]:
    """Every made page's path within the site, and its Markdown."""
    for name, path in OF_ROOT.items():
        yield path, from_root((ROOT / name).read_text(encoding="utf-8"))
    yield "reference/commands.md", commands_page()
    yield "reference/settings.md", settings_page()
    yield "reference/python.md", python_page()
    for room in ROOMS:
        yield f"reference/python-{room}.md", room_page(room)


def from_root(text: str) -> str:
    """Let links of a page beside docs/ lead to the site's pages, or to nothing but a name."""

    def lead(found: re.Match[str]) -> str:
        target = OF_ROOT.get(found[1], found[1].removeprefix("docs/"))
        if found[1] in OF_ROOT or found[1].startswith("docs/"):
            return f"]({target}{found[2]})"
        return "](contributing.md)"

    return LINK.sub(lead, text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links from docs/ to the files beside it lead to the pages that are made of these."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    for name, path in OF_ROOT.items():
        markdown = markdown.replace(f"](../{name}", f"]({path}")
    return markdown


def commands_page() -> str:
    """Every command with its help, arguments and options."""
    import typer

    from skinml.cli.main import app

    lines = ["# Commands", "", "Each also says this behind `--help`.", ""]
    for path, command in walk(typer.main.get_command(app), ("skinml",)):
        lines += [f"## `{' '.join(path)}`", "", *paragraphs(command.help or ""), ""]
        lines += parameters(command)
    epilog = getattr(typer.main.get_command(app), "epilog", "") or ""
    return "\n".join([*lines, "## Exit codes", "", epilog.removeprefix("Exit codes: "), ""])


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, a group that does something itself first."""
    inner = getattr(command, "commands", None)
    if inner is None or getattr(command, "invoke_without_command", False):
        yield path, command
    for name, each in (inner or {}).items():
        yield from walk(each, (*path, name))


def paragraphs(text: str) -> list[str]:
    """A docstring's words; its example as a line to copy."""
    words, _, example = text.strip().partition("Example: ")
    lines = [escaped(line.strip()) for line in words.strip().splitlines()]
    return [*lines, "", "```console", example.strip(), "```"] if example else lines


def parameters(command: Any) -> list[str]:
    """A table of a command's arguments and options."""
    rows = []
    for each in command.params:
        flags = ", ".join([*each.opts, *each.secondary_opts])
        name = each.name.upper() if each.param_type_name == "argument" else flags
        if name == "--help" or getattr(each, "hidden", False):
            continue
        rows.append(f"| `{name}` | {cell(getattr(each, 'help', '') or '')} | {usual(each)} |")
    return ["| word | what it is | by default |", "|---|---|---|", *rows, ""] if rows else []


def usual(parameter: Any) -> str:
    """What a parameter is where nobody says."""
    if parameter.required:
        return "required"
    value = parameter.default
    if (
        value is None
        or value in ("", (), [], False)
        or callable(value)
        or "Sentinel" in repr(value)
    ):
        return ""
    return f"`{cell(str(value))}`"


def settings_page() -> str:
    """Every key of a config, from the models that check it."""
    from skinml.config import RunConfig

    lines = [
        "# Settings",
        "",
        "Every key of a run's config: `skinml run EXPERIMENT key=value`, or a file in",
        "`configs/`. An experiment's own files say more than the defaults here.",
        "",
    ]
    top, sections = [], []
    for name, field in RunConfig.model_fields.items():
        inner = model_of(field.annotation)
        if inner is None:
            top.append(setting(name, field))
        else:
            sections += [f"## {name}", "", field.description or "", "", *table(inner, f"{name}.")]
    return "\n".join([*lines, *HEAD, *top, "", *sections])


HEAD = ("| key | meaning | type | by default |", "|---|---|---|---|")


def table(model: Any, before: str) -> list[str]:
    """A table of a section's keys, those of sections within it included."""
    return [*HEAD, *rows_of(model, before), ""]


def rows_of(model: Any, before: str) -> Iterator[str]:
    """A row a key."""
    told = attributes_of(model)
    for name, field in model.model_fields.items():
        inner = model_of(field.annotation)
        if inner is None or inner is model:
            yield setting(before + name, field, told.get(name, ""))
        else:
            yield from rows_of(inner, f"{before}{name}.")


def attributes_of(model: Any) -> dict[str, str]:
    """What a model's docstring says of its fields, for those that say nothing themselves."""
    _, _, told = (inspect.getdoc(model) or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", told, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def setting(key: str, field: Any, told: str = "") -> str:
    """One key's row."""
    default = "required" if field.is_required() else f"`{cell(default_of(field))}`"
    words = cell(field.description or told)
    return f"| `{key}` | {words} | {cell(type_of(field.annotation))} | {default} |"


def type_of(annotation: Any) -> str:
    """A type in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(str(each) for each in inside)
    if origin is Annotated:
        return type_of(inside[0])
    if origin in (Union, UnionType):
        return " or ".join("null" if each is NoneType else type_of(each) for each in inside)
    if origin in (tuple, list, set, frozenset):
        kinds = dict.fromkeys(type_of(each) for each in inside if each is not Ellipsis)
        return f"list of {', '.join(kinds)}"
    if origin in (dict, Mapping, collections.abc.Mapping):
        return f"mapping of {type_of(inside[0])} to {type_of(inside[1])}"
    return PLAIN.get(getattr(annotation, "__name__", ""), getattr(annotation, "__name__", "any"))


PLAIN = {
    "str": "text",
    "Path": "path",
    "int": "whole number",
    "float": "number",
    "bool": "true, false",
}


def default_of(field: Any) -> str:
    """A default in words."""
    value = field.get_default(call_default_factory=True)
    return str(dict(value)) if isinstance(value, Mapping) else str(value)


def model_of(annotation: Any) -> Any:
    """The pydantic model that an annotation is, if any."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def python_page() -> str:
    """The way into the modules' pages."""
    rows = [f"| [`skinml.{room}`](python-{room}.md) | {says} |" for room, says in ROOMS.items()]
    return "\n".join(
        [
            "# Python",
            "",
            "What most people need is in `skinml` itself:",
            "",
            *(f"::: skinml.experiments.api.{name}\n" for name in public_names()),
            "## Rooms",
            "",
            "| room | what is in it |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def public_names() -> list[str]:
    """What `skinml` itself offers."""
    import skinml

    return [name for name in skinml.__all__ if not name.startswith("_")]


def room_page(room: str) -> str:
    """A room's modules, from their docstrings."""
    lines = [f"# skinml.{room}", "", f"{ROOMS[room]}.", ""]
    for module in modules(room):
        lines += [f"## {module.removeprefix('skinml.')}", "", f"::: {module}", "    options:"]
        lines += ["      show_root_heading: false", "      show_root_toc_entry: false", ""]
    return "\n".join(lines)


def modules(room: str) -> list[str]:
    """Modules of a room, by name; that of Python's runs has a page already."""
    single = ROOT / "skinml" / f"{room}.py"
    files = [single] if single.is_file() else sorted((ROOT / "skinml" / room).rglob("*.py"))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if path.name != "__init__.py" and path != ROOT / "skinml/experiments/api.py"
    ]


def escaped(text: str) -> str:
    """Words in which nothing is taken for HTML."""
    return html.escape(text, quote=False)


def cell(text: str) -> str:
    """Words within a table."""
    return escaped(" ".join(text.split())).replace("|", "\\|")
