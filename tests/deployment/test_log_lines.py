"""The logs' form: one line an event, keys of one closed list, whatever a process prints."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from skinml.deployment.log_lines import MARK, Line, Spoken, heard
from skinml.deployment.supervision import JsonLog, Part, Supervision

KEYS = frozenset(Line.__annotations__)
SPEAKS = f"""
import logging, sys
from skinml.deployment.log_lines import Spoken

handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(Spoken())
logging.basicConfig(level=logging.INFO, handlers=[handler])
told = {{"event": "answered", "kind": "train", "run": "r-1", "round": 3, "seconds": 0.5}}
logging.info("answered %s", "train", extra={{"told": told}})
try:
    raise ValueError("patient=1234")
except ValueError:
    logging.exception("two\\nlines")
print("{MARK}" + '{{"event": "answered", "patient": "p"}}', file=sys.stderr)
"""


def spoken(log: Path) -> bool:
    return log.exists() and '"patient' in log.read_text().replace("\\", "")


def record(words: str, **told: object) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.INFO, "x.py", 1, words, (), None)
    made.told = told
    return made


def test_what_a_process_says_is_read_as_it_was_meant() -> None:
    said = Spoken().format(record("answered", event="answered", run="r", round=2, seconds=1.5))
    assert heard(said) == {
        "event": "answered",
        "words": "answered",
        "run": "r",
        "round": 2,
        "seconds": 1.5,
    }


@pytest.mark.parametrize("words", ["a\nb", "\r\n\u2028", "x" * 5000, '"}', "\udcff"])
def test_whatever_the_words_they_stay_on_one_short_line(words: str) -> None:
    said = Spoken().format(record(words))
    assert len(said.splitlines()) == 1
    assert len(said) < 2000
    found = heard(said)
    assert found is not None
    assert found["event"] == "said"


@pytest.mark.parametrize(
    "text",
    [
        "answered train",
        f"{MARK}" + "{",
        f"{MARK}[]",
        f'{MARK}{{"words": "no event"}}',
        f'{MARK}{{"event": "x", "patient": "p"}}',
        f'{MARK}{{"event": "x", "at": "2020"}}',
        f'{MARK}{{"event": "x", "round": "3"}}',
        f'{MARK}{{"event": "x", "round": true}}',
        f'{MARK}{{"event": ["x"]}}',
        MARK + "[" * 2000,
    ],
)
def test_a_line_of_another_form_is_nobodys_event(text: str) -> None:
    assert heard(text) is None


def test_a_supervised_process_speaks_through_the_one_log(tmp_path: Path) -> None:
    part = Part("speaker", (sys.executable, "-c", SPEAKS), tmp_path)
    log = JsonLog(tmp_path / "log.jsonl")
    with Supervision([part], log, tmp_path / "book").running() as running:
        until = time.monotonic() + 30
        running.wait(lambda: time.monotonic() > until or spoken(log.path))
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert all(set(line) <= KEYS and {"at", "part", "event"} <= set(line) for line in lines)
    assert {datetime.fromisoformat(line["at"]).utcoffset() for line in lines} == {timedelta(0)}
    answered = [line for line in lines if line["event"] == "answered"]
    assert [(line["part"], line["run"], line["round"]) for line in answered] == [
        ("speaker", "r-1", 3)
    ]
    said = [line["words"] for line in lines if line["event"] == "said"]
    assert said[0].startswith("two\nlines: ValueError at <string>:")
    assert not [line for line in lines if "1234" in str(line)]
