"""The container files, read line by line: nobody builds them here, so all else is held by tests."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from skinml.cli.main import main

ROOT = Path(__file__).parents[1]
ROLES = ("coordinator", "clinic")
IMAGES = ("skinml-coordinator", "skinml-clinic")
HADOLINT = Path(sys.executable).with_name("hadolint")


def lines(role: str) -> list[tuple[str, str]]:
    """Its instructions and what stands behind each."""
    text = (ROOT / "containers" / role / "Containerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for word, _, rest in (each.partition(" ") for each in text.split("\n"))
        if word
    ]


def behind(role: str, instruction: str) -> list[str]:
    return [rest for word, rest in lines(role) if word == instruction]


@pytest.mark.parametrize("role", ROLES)
class TestBothRoles:
    def test_it_is_built_on_a_named_release_and_runs_without_rights(self, role: str) -> None:
        (base,) = behind(role, "FROM")
        assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-\w+", base)
        *_, user = behind(role, "USER")
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
        order = [word for word, _ in lines(role)]
        assert order.index("USER") > max(i for i, word in enumerate(order) if word == "RUN")

    def test_its_command_serves_the_folder_that_is_its_volume(
        self, role: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert json.loads(behind(role, "ENTRYPOINT")[0]) == ["skinml"]
        *command, option, folder = json.loads(behind(role, "CMD")[0])
        assert folder in json.loads(behind(role, "VOLUME")[0])
        assert main([*command, "--help"]) == 0
        assert option in capsys.readouterr().out

    def test_its_health_is_asked_by_a_command_that_exists(
        self, role: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (health,) = behind(role, "HEALTHCHECK")
        *_, script = json.loads(health[health.index("[") :])
        words = shlex.split(script.split("|")[0])
        assert words[0] == "skinml"
        assert main([*words[1:3], "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words if word.startswith("--"))

    def test_no_secret_is_in_it_and_what_it_copies_is_the_package_alone(self, role: str) -> None:
        copied = [word for each in behind(role, "COPY") for word in each.split()[:-1]]
        allowed = {
            line[1:]
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line[:1] == "!"
        }
        assert set(copied) == allowed
        assert all((ROOT / name).exists() for name in copied)
        text = " ".join(rest for word, rest in lines(role) if word in ("ENV", "ARG", "RUN"))
        assert not re.search(r"(?i)passphrase|password|secret|token|\.key", text)

    def test_hadolint_has_nothing_to_say(self, role: str, tmp_path: Path) -> None:
        if not HADOLINT.is_file():
            pytest.skip("hadolint is not installed: pip install 'skinml[dev]'")
        file = ROOT / "containers" / role / "Containerfile"
        said = hadolint(file)
        assert (said.returncode, said.stdout) == (0, "")
        worse = tmp_path / "Containerfile"
        worse.write_text(re.sub(r"python:\S+", "python:latest", file.read_text()))
        assert "DL3007" in hadolint(worse).stdout

    @pytest.mark.slow
    def test_the_files_that_it_copies_make_the_package(self, role: str, tmp_path: Path) -> None:
        context = tmp_path / "context"
        context.mkdir()
        for each in behind(role, "COPY"):
            *names, _ = each.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(
                        ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(ROOT / name, context / name)
        words = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir"]
        subprocess.run([sys.executable, *words, tmp_path, context], check=True, capture_output=True)
        (wheel,) = tmp_path.glob("skinml-*.whl")
        held = zipfile.ZipFile(wheel).namelist()
        assert {"skinml/cli/main.py", "skinml/configs/config.yaml"} <= set(held)


def test_what_deployment_md_types_into_a_container_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs/deployment.md").read_text().replace("\\\n", " ")
    typed = re.findall(r"^docker (?:run|exec) .*$", page, re.MULTILINE)
    assert len(typed) == 5
    for line in typed:
        words = shlex.split(line)
        image = next((word for word in words if word in IMAGES), "skinml")
        at = words.index(image)
        behind_it = words[at + 1 :]
        if not behind_it:  # the image's own command
            assert {"--read-only", "--cap-drop", "no-new-privileges"} <= set(words)
            continue
        assert main([*behind_it[:2], "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in behind_it if word.startswith("--"))


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    command = [HADOLINT, "--no-color", file]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_clinics_image_opens_no_port_and_keeps_its_anchors_out_of_its_folder() -> None:
    assert behind("clinic", "EXPOSE") == []
    assert len(behind("coordinator", "EXPOSE")) == 1
    (variables,) = behind("clinic", "ENV")
    anchors = dict(each.split("=") for each in variables.split())["XDG_STATE_HOME"]
    volumes = json.loads(behind("clinic", "VOLUME")[0])
    assert anchors in volumes
    assert anchors != json.loads(behind("clinic", "CMD")[0])[-1]
