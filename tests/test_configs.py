"""Every shipped config composes, mistakes are named, and the command line tells what it can do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import typer
import yaml
from click import Command, Group

from skinml import config as config_module
from skinml.cli.main import app, main
from skinml.config import RunConfig, config_folder, experiments, load_config, parse_config
from skinml.errors import ConfigError

ROOT = Path(__file__).parents[1]
SHIPPED = tuple(path.stem for path in sorted(config_folder().glob("experiment/*.yaml")))


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A working folder that the test stands in."""
    with chdir(tmp_path):
        yield tmp_path


def own_experiment(work: Path, text: str, name: str = "mine") -> None:
    folder = work / "configs" / "experiment"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}")


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("change", [[], ["federation=centralised"], ["privacy.trust=none"]])
def test_every_experiment_composes_and_validates(name: str, change: list[str]) -> None:
    config = load_config(name, change)
    assert config.name == name
    assert config.federation.mode == (
        "centralised" if "federation" in str(change) else "simulation"
    )
    assert (config.privacy.trust == "none") == ("privacy.trust=none" in change)


@pytest.mark.parametrize(
    "path",
    sorted(config_folder().glob("*/*.yaml")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_file_of_a_group_can_be_chosen(path: Path) -> None:
    group = path.parent.name
    if group == "experiment":
        assert path.stem in experiments()
    else:
        # A network that is trained end to end goes with local noise only.
        network = yaml.safe_load(path.read_text()).get("kind") == "network"
        load_config("quickstart", [f"{group}={path.stem}", *(["privacy=local"] * network)])


def test_every_group_of_files_is_a_section_of_the_config() -> None:
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    assert groups - {"experiment"} <= set(RunConfig.model_fields)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_config_survives_its_own_json(name: str) -> None:
    config = load_config(name)
    assert parse_config(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_experiment_goes_without_privacy(name: str) -> None:
    assert load_config(name).privacy.trust in {"local", "distributed"}


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("privcy.epsilon=1", "privacy"),
        ("privacy.epsilom=1", "epsilon"),
        ("training.head.round=5", "rounds"),
        ("data.synthetic.num_patient=9", "num_patients"),
        ("privacy.budget.epsilonn=9", "epsilon"),
        ("sead=1", "seed"),
    ],
)
def test_an_unknown_override_names_the_nearest_key(override: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"Did you mean {meant}\?") as caught:
        load_config("quickstart", [override])
    assert override.startswith(caught.value.got)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("name: mine\nprivacy:\n  epsilom: 1\n", "epsilon"),
        ("name: mine\ntraining:\n  head:\n    round: 5\n", "rounds"),
        ("name: mine\nsead: 1\n", "seed"),
    ],
)
def test_an_unknown_key_in_yaml_names_the_nearest_key(work: Path, text: str, meant: str) -> None:
    own_experiment(work, text)
    with pytest.raises(ConfigError, match=rf"Did you mean {meant}\?"):
        load_config("mine")


@pytest.mark.parametrize("name", ["quickstrat", "derm_malignant", "derm_tones"])
def test_a_misspelt_experiment_names_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean (quickstart|derm_malignancy|derm_tone)\?"):
        load_config(name)


@pytest.mark.parametrize(
    "override", ["privacy.epsilon", "=3", "federation=centralized", "privacy=central", "model=cnn"]
)
def test_an_override_that_is_none_is_a_config_error(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config("quickstart", [override])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("privacy.epsilon=0", "privacy.epsilon"),
        ("privacy.epsilon=-1", "privacy.epsilon"),
        ("privacy.epsilon=nan", "privacy.epsilon"),
        ("privacy.epsilon=inf", "privacy.epsilon"),
        ("privacy.epsilon=three", "privacy.epsilon"),
        ("privacy.delta=1", "privacy.delta"),
        ("privacy.trust=everyone", "privacy.trust"),
        ("seed=-1", "seed"),
        ("training.head.rounds=1", "training.head.rounds"),
        ("data.where.sex=[1,[2]]", "data.where.sex"),
    ],
)
def test_an_impossible_value_is_named_with_its_key(override: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [override])
    assert value in f"{caught.value.rule} {caught.value.got}"


def test_an_override_reaches_fields_that_no_file_mentions() -> None:
    changes = ["privacy.budget.epsilon=4", "federation.cpus=1", "data.synthetic.num_patients=50"]
    config = load_config("quickstart", changes)
    assert config.privacy.budget.epsilon == 4
    assert config.federation.cpus == 1
    assert config.data.synthetic is not None
    assert config.data.synthetic.num_patients == 50


def test_a_users_experiment_is_found_in_the_working_folder(work: Path) -> None:
    own_experiment(work, "defaults:\n  - override /privacy: local\nname: mine\n")
    config = load_config("mine", ["privacy.epsilon=2"])
    assert config.name == "mine"
    assert (config.privacy.trust, config.privacy.epsilon) == ("local", 2)
    assert {"mine", *SHIPPED} <= set(experiments())


def test_a_users_experiment_may_set_the_seed(work: Path) -> None:
    own_experiment(work, "name: mine\nseed: 5\n")
    assert load_config("mine").seed == 5


def test_a_missing_clinic_needs_noise_that_suffices_without_it() -> None:
    with pytest.raises(ConfigError, match="tolerated_dropouts"):
        load_config("quickstart", ["federation.allowed_missing=1"])
    changes = ["federation.allowed_missing=1", "privacy.tolerated_dropouts=1"]
    assert load_config("quickstart", changes).federation.allowed_missing == 1


def test_every_setting_is_described() -> None:
    bare = []
    for name, field in RunConfig.model_fields.items():
        section = config_module._section(field.annotation)
        fields = section.model_fields.items() if section else [(name, field)]
        bare += [
            f"{name}.{key}"
            for key, each in fields
            if not (each.description or in_docs(section, key))
        ]
    assert not bare


def in_docs(section: type | None, key: str) -> bool:
    """Whether a field is described in its class's docstring instead."""
    return section is not None and f"{key}:" in (section.__doc__ or "")


def build(target: str, into: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(into.iterdir())


def test_a_wheel_carries_configs_taxonomy_and_templates(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
    for folder, inside in ((config_folder(), "skinml/configs"), (ROOT / "skinml", "skinml")):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{inside}/{path.relative_to(folder).as_posix()}" in names
    assert all(name.startswith(("skinml/", "skinml-")) for name in names)


def test_a_source_package_holds_the_project_and_no_run(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as package:
        names = {name.split("/", 1)[1] for name in package.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "configs/config.yaml"} <= names
    left = {"runs", "clinics", "cohorts", "mlflow.db", ".venv", ".ci", ".hypothesis"}
    assert not {name.split("/")[0] for name in names} & left


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["--version"], ["evaluate", "--help"]]
)
def test_asking_for_help_loads_nothing_heavy(words: list[str]) -> None:
    heavy = ("torch", "torchvision", "mlflow", "flwr", "ray", "pandas", "sklearn", "numpy", "hydra")
    code = (
        "import sys\nfrom skinml.cli.main import main\n"
        f"assert main({words!r}) == 0\n"
        f"sys.exit(', '.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def commands(
    group: Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Command]]:
    if isinstance(group, Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))
    else:
        yield path, group


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=lambda value: str(value))
def test_every_command_has_help_and_an_example(path: tuple[str, ...], command: Command) -> None:
    text = command.help or ""
    assert text.strip()
    assert f"Example: skinml {' '.join(path)}" in text
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path} {parameter.name}"


CLINIC = [(path, command) for path, command in COMMANDS if path[0] == "clinic"]


@pytest.mark.parametrize(("path", "command"), CLINIC, ids=lambda value: str(value))
def test_a_clinics_commands_name_its_folder_alike_and_last(
    path: tuple[str, ...], command: Command
) -> None:
    names = [each.name for each in command.params]
    shared = [name for name in ("folder", "as_json") if name in names]
    if path != ("clinic", "init"):
        assert names[-len(shared) :] == shared
    (example,) = re.findall(r"Example: (.*)", command.help or "")
    assert example.endswith(" --folder north")


def test_the_clinics_commands_stand_by_the_days_work() -> None:
    (group,) = (
        found
        for name, found in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
        if name == "clinic"
    )
    shown = group.list_commands(None)
    assert sorted(shown) == sorted(group.commands)
    assert shown[0] == "init"
    assert all(getattr(found, "rich_help_panel", None) for found in group.commands.values())


def test_an_unknown_command_and_option_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rum"]) == 2
    assert main(["run", "quickstart", "--jsn"]) == 2
    assert main(["run", "quickstrat", "--json"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert told["code"] == 2
    assert "quickstart" in told["do"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.root=mine", r"reads no root.*data\.source=manifest"),
        ("privacy.epsilon=1,3", r"got privacy\.epsilon=1,3\. For a run with each .*--sweep"),
        ("model=smal_cnn", r"efficientnet_lite0_head.*got model=smal_cnn\. Did you mean small_cnn"),
        ("model=zzz", r"got model=zzz\. Choose one of these names"),
    ],
)
def test_an_override_that_would_do_something_else_says_what_does(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config("quickstart", [override])
