"""YAML that means what it looks like, and settings that list all their problems at once.

Plain YAML lets a key stand twice and takes the last, reads `no` as false, `010` as eight and
`1e-5` as a word. In a policy each of these would silently be another rule than the one written.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from skinml.errors import ConfigError

_MOST_BYTES = 64 * 1024
_MOST_LINES = 50
_KEY = re.compile(r"[a-z][a-z_]{0,60}")
_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
# YAML 1.2, core schema, without hexadecimal, octal, infinity and NaN; first letters per pattern.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
}

Settings = TypeVar("Settings", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """Words, numbers, lists and mappings; no key twice, no alias, no other tag."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's name and type)
    yaml_constructors = {
        _TAG + kind: yaml.SafeLoader.yaml_constructors[_TAG + kind] for kind in _KINDS
    } | {None: yaml.SafeLoader.yaml_constructors[None]}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases, which can make a short file enormous."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases are not allowed", self.get_mark()
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice."""
        values: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = "a key must be a word; put quotes around it"
            elif key in values:
                problem = f"{_shown_key(key)} stands twice"
            else:
                values[key] = self.construct_object(value_node, deep=deep)
                continue
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        return values


for _kind, (_pattern, _letters) in _SCALARS.items():
    _StrictLoader.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), _letters)


def read_yaml(content: bytes, what: str) -> dict[str, Any]:
    r"""Read a YAML mapping.

    Args:
        content: The file's bytes, UTF-8, at most 64 KiB.
        what: What it is, for the message, such as "policy".

    Returns:
        Its keys and values: words, numbers, booleans, None, lists and mappings.

    Raises:
        ConfigError: If it is not a mapping in YAML, if a key stands twice, or if it uses aliases
            or tags.

    >>> read_yaml(b"least: 010\nmost: 1e-5\nowner: no\nend:", "example")
    {'least': '010', 'most': 1e-05, 'owner': 'no', 'end': None}
    """
    if len(content) > _MOST_BYTES:
        raise _unreadable(what, f"{len(content)} bytes, more than {_MOST_BYTES}")
    try:
        # The loader is a SafeLoader with fewer constructors.
        values = yaml.load(content.decode("utf-8"), _StrictLoader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _unreadable(what, f"line {line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _unreadable(what, "text that is not YAML in UTF-8") from None
    if not isinstance(values, dict):
        raise _unreadable(what, "no keys with values")
    return values


def validated(kind: type[Settings], values: Mapping[str, Any], what: str) -> Settings:
    """Check values against their schema.

    Args:
        kind: The schema, a frozen pydantic model that forbids unknown keys.
        values: Nested values.
        what: What they are, for the message.

    Returns:
        The settings.

    Raises:
        ConfigError: If a key is unknown or missing or a value is impossible. The details hold a
            line a problem; an unknown key comes with the nearest known one.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_url=False)
    lines = [
        _problem(kind, each["loc"], each["type"], each["msg"], each["input"]) for each in found
    ]
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems, the first"
    shown = lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        shown.append(f"and {len(lines) - _MOST_LINES} more")
    raise ConfigError(
        rule=f"a {what} that keeps its schema",
        got=f"{count}: {lines[0]}".rstrip("?"),
        do=f"Correct the {what}; until then nothing runs.",
        details=shown if len(lines) > 1 else (),
    )


def nearest(word: str, known: tuple[str, ...]) -> str:
    """Find the known word that somebody most likely meant.

    Args:
        word: What was written.
        known: The words there are.

    Returns:
        "; did you mean ...?", or the known words where none is close.
    """
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _problem(
    kind: type[BaseModel], where: tuple[int | str, ...], sort: str, message: str, got: Any
) -> str:
    path = ".".join(str(part) for part in where)
    text = message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if sort == "extra_forbidden":
        model = _section(kind, where[:-1])
        known, last = tuple(model.model_fields) if model else (), str(where[-1])
        place = ".".join([*(str(part) for part in where[:-1]), _shown_key(last)])
        return f"{place}: no such key{nearest(last, known)}"
    if sort == "missing":
        return f"{path}: missing"
    if not path or isinstance(got, dict | list | tuple | BaseModel):
        return f"{path or 'whole'}: {text}"
    return f"{path}: {text}, not {str(got)[:60]!r}"


def _shown_key(key: str) -> str:
    """Repeat a key only if it looks like one: a wrong file's keys could be anything."""
    return key if _KEY.fullmatch(key) else "a key that is no lower-case word"


def _section(kind: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Find the model of a section by its path."""
    model: type[BaseModel] | None = kind
    for part in path:
        annotation = model.model_fields[str(part)].annotation if model else None
        inner = [
            each
            for each in (annotation, *get_args(annotation))
            if isinstance(each, type) and issubclass(each, BaseModel)
        ]
        model = inner[0] if inner else None
    return model


def _unreadable(what: str, got: str) -> ConfigError:
    return ConfigError(
        rule=f"a {what} in plain YAML",
        got=got,
        do=f"Correct the {what}; until then nothing runs.",
    )
