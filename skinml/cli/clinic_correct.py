"""`skinml clinic correct`: the right value in the place of a wrong one."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from skinml.cli.options import AsJson, AtFolder, Taxonomy
from skinml.cli.patient_input import ask_patient
from skinml.cli.screen import narrow_console
from skinml.errors import ConfigError


def correct(
    field: Annotated[
        list[str], typer.Option(help="FIELD=VALUE, such as sex=female; nothing behind = removes.")
    ],
    picture: Annotated[
        str | None, typer.Option(help="The picture's number in the patient's copy; all without.")
    ] = None,
    taxonomy: Taxonomy = None,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Correct what stands beside a patient's pictures; the register keeps the wrong one no more.

    The patient's number is typed or piped in. Models that were trained stay as
    they are; later runs read the right value.

    Example: skinml clinic correct --field sex=female --folder north
    """
    from skinml.clinic.correction import correct_record
    from skinml.clinic.opening import open_at_screen

    changes = dict(map(_pair, field))
    opened, patient = open_at_screen(folder), ask_patient()
    now = datetime.now().astimezone()
    done = correct_record(opened, patient, changes, now=now, only=picture, taxonomy=taxonomy)
    if as_json:
        values = {"pictures": done.pictures, "requests_closed": done.closed}
        print(json.dumps(values), flush=True)
        return
    pictures = "1 picture" if done.pictures == 1 else f"{done.pictures} pictures"
    narrow_console().print(
        f"Corrected beside {pictures}; the register holds the wrong value no more. What runs "
        "computed before, and models that were trained, stay as they are."
    )


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(
            rule="FIELD=VALUE behind --field",
            got="no '='",
            do="Write it such as --field sex=female.",
        )
    return name.strip(), value.strip()
