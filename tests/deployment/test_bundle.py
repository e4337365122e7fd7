"""The bundle: no code in it, the same bytes everywhere, and Flower takes it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile

from flwr.cli.config_utils import get_fab_config, get_fab_metadata
from flwr.common.config import validate_config

from skinml.deployment import bundle


def test_the_digest_is_the_published_one() -> None:
    assert bundle.digest() == bundle.PUBLISHED == hashlib.sha256(bundle.build()).hexdigest()


def test_another_process_in_another_zone_builds_the_same_bytes() -> None:
    script = "from skinml.deployment import bundle; print(bundle.digest())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == bundle.PUBLISHED


def test_it_holds_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.build())) as archive:
        assert archive.namelist() == ["pyproject.toml", ".info/CONTENT"]


def test_flower_reads_it_and_finds_nothing_to_install() -> None:
    config = get_fab_config(bundle.build())
    valid, errors, warnings = validate_config(config, check_module=False)
    assert (valid, errors, warnings) == (True, [], [])
    assert config["project"]["dependencies"] == []
    assert config["tool"]["flwr"]["app"]["config"] == {"run": ""}
    components = config["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": bundle.SERVER_APP, "clientapp": bundle.CLIENT_APP}
    assert get_fab_metadata(bundle.build()) == ("skinml/skinml-run", "1.0.0")
