"""`skinml bundle`: one signed file for whoever reviews a run, and its check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
import typer
from click.shell_completion import CompletionItem
from typer.core import TyperGroup

from skinml.cli.completion import finished_runs
from skinml.cli.options import AsJson, FinishedRun

_MAKE = "make"


class _RunFirst(TyperGroup):
    """Takes `skinml bundle RUN` for `skinml bundle make RUN`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name in where a run's stands."""
        if args and args[0] not in (*self.commands, "--help"):
            args = [_MAKE, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer finished runs beside the commands."""
        runs = [CompletionItem(name) for name in finished_runs(incomplete)]
        return [*super().shell_complete(ctx, incomplete), *runs]


app = typer.Typer(
    cls=_RunFirst,
    no_args_is_help=True,
    help="Pack a finished run for a reviewer, signed; check such a file without the data.",
    epilog="Example: skinml bundle derm_tone-20260301-093000-1f2e --out review.zip",
)


@app.command(_MAKE)
def make(
    run: FinishedRun,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default RUN.bundle.zip.")
    ] = None,
    with_model: Annotated[
        bool, typer.Option("--with-model", help="Put the model itself in as well.")
    ] = False,
    work_dir: Annotated[Path, typer.Option(help="The working folder with the runs.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Pack a finished run for a reviewer; `make` may be left out.

    The report is checked first, and a report that is not what was computed is not packed. The file
    is signed with the working folder's own key, made at the first bundle.

    Example: skinml bundle make derm_tone-20260301-093000-1f2e --out review.zip
    """
    from skinml.experiments.bundling import make_bundle

    done = make_bundle(run, work_dir=work_dir, out=out, with_model=with_model)
    if as_json:
        told = {"bundle": str(done.path), "run": done.run, "key": done.key, "bytes": done.size}
        print(json.dumps(told | {"members": done.members}), flush=True)
        return
    agreed = sum(each.outcome == "agrees" for each in done.verified.checks)
    print(f"Checked here: {agreed} of {len(done.verified.checks)} checks agree, none differs.")
    print(f"Bundle:  {done.path} ({done.size / 1e6:.1f} MB, {len(done.members)} files)")
    print(f"Signed:  {done.key}")
    print("Tell the reader this fingerprint by another way than the file, such as the telephone.")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle.")],
    key: Annotated[
        str | None, typer.Option(help="The fingerprint that its maker told you.")
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="A working folder whose ledgers it is held against.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle without its data and without a network, and say what could not be checked.

    Exit code 5 where something differs, 2 where the file is no bundle.

    Example: skinml bundle verify review.zip --key "3f2a 9c01 77de 1b02 a4c3 55e0 91ff 0d12"
    """
    from skinml.experiments.bundle_check import require_sound, verify_bundle

    found = verify_bundle(file, key=key, work_dir=work_dir)
    if as_json and not found.differs:
        print(json.dumps(found.result), flush=True)
        return
    if not as_json:
        for each in found.checks:
            print(f"{each.outcome}: {each.what}{f' ({each.detail})' if each.detail else ''}")
    require_sound(found)
