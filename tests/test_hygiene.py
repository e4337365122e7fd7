"""What no file of skinml may do: run bytes as code, or hand words to a shell.

Held against the syntax tree of each file, so that comments may speak of what is forbidden. A
process that becomes another (`os.execv`, in deployment/tied.py) or starts one from a list of words
(`subprocess` without a shell) is none of these: no text is read as code there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for part in ("skinml", "scripts", ".ci", "notebooks")
    for path in (ROOT / part).rglob("*.py")
)
# Modules that turn bytes into objects by running what the bytes say.
UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
}
HARMLESS = {"pickle.UnpicklingError", "pickle.PickleError"}  # classes to catch
BUILTINS = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
LOADERS = {"yaml.load", "yaml.load_all"}
OTHER_LOADERS = {"yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"}
LOOKED_AT = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.Name, ast.Attribute, ast.Call)
UNPICKLING_CALLS = {"pandas.read_pickle", "torch.package.PackageImporter", "torch.jit.load"}


def faults(source: str) -> list[str]:
    """What a file does that none may, each with its line."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, LOOKED_AT)]
    names = dict(imported(nodes))
    safe = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    for node in nodes:  # a loader of one's own on top of a safe one, in the same file
        if isinstance(node, ast.ClassDef) and node.bases:
            bases = {whole_name(base, names) for base in node.bases}
            safe |= {node.name} if bases <= safe else set()
    found = [
        (node.lineno, words)
        for node in nodes
        for words in (*of_import(node), *of_name(node, names), *of_call(node, names, safe))
    ]
    return [f"{line}: {words}" for line, words in sorted(found)]


def imported(nodes: Sequence[ast.AST]) -> Iterator[tuple[str, str]]:
    """What each name that an import makes stands for."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.asname or whole, whole
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def whole_name(node: ast.AST, names: dict[str, str]) -> str:
    """`np.load` as `numpy.load`; empty for what has no name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def of_import(node: ast.AST) -> Iterator[str]:
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [f"{node.module}.{alias.name}" for alias in node.names]
    for module in modules:
        if module.split(".")[0] in UNPICKLERS and module not in HARMLESS:
            yield f"import of {module}"


def of_name(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """Names that may not even be passed on, and a module that is named in a text."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        name = whole_name(node, names).removeprefix("builtins.")
        if name in BUILTINS | SHELLS | OTHER_LOADERS | UNPICKLING_CALLS:
            yield name
    if isinstance(node, ast.Call) and whole_name(node.func, names) == "importlib.import_module":
        if not all(isinstance(each, ast.Constant) for each in node.args):
            yield "import of a module that is computed"
        for each in node.args:
            if isinstance(each, ast.Constant) and str(each.value).split(".")[0] in UNPICKLERS:
                yield f"import of {each.value}"


def of_call(node: ast.AST, names: dict[str, str], safe: set[str]) -> Iterator[str]:
    if not isinstance(node, ast.Call):
        return
    name = whole_name(node.func, names)
    given = {each.arg: each.value for each in node.keywords}
    if name == "torch.load" and not is_constant(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if name == "numpy.load" and not is_constant(given.get("allow_pickle"), False):
        yield "numpy.load without allow_pickle=False"
    elif not is_constant(given.get("allow_pickle", ast.Constant(False)), False):
        yield "allow_pickle"
    if not is_constant(given.get("shell", ast.Constant(False)), False):
        yield "a shell"
    if name in LOADERS:
        loader = given.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        if loader is None or whole_name(loader, names) not in safe:
            yield f"{name} with a loader that is not safe"


def is_constant(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_bytes_are_run_as_code_and_no_words_reach_a_shell(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_every_room_is_looked_at() -> None:
    looked = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert {"skinml/models/backbones.py", "skinml/deployment/tied.py", ".ci/smoke.py"} <= looked
    assert len(looked) > 150


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from pickle import *",
        "import dill",
        "import cloudpickle",
        "import marshal",
        "import shelve",
        "import joblib.numpy_pickle",
        "from joblib import load",
        "import _pickle",
        "import cPickle",
        "def late():\n    import pickle",
        "import importlib\nimportlib.import_module('pickle')",
        "import importlib\nimportlib.import_module(name)",
        "__import__('pickle')",
        "import torch\ntorch.load(place)",
        "import torch\ntorch.load(place, weights_only=False)",
        "import torch\ntorch.load(place, weights_only=flag)",
        "import torch as t\nt.load(place)",
        "from torch import load as fetch\nfetch(place)",
        "import torch\ntorch.jit.load(place)",
        "import numpy as np\nnp.load(place)",
        "import numpy as np\nnp.load(place, allow_pickle=True)",
        "from numpy import load\nload(place)",
        "import numpy as np\nnp.savez(place, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(place)",
        "eval(text)",
        "exec(text)",
        "compile(text, 'a', 'exec')",
        "run = eval",
        "import builtins\nbuiltins.exec(text)",
        "from builtins import eval as fine\nfine(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import subprocess\nsubprocess.Popen(text, shell=flag)",
        "import subprocess\nsubprocess.getoutput(text)",
        "import os\nos.system(text)",
        "from os import popen\npopen(text)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text, yaml.UnsafeLoader)",
        "from yaml import load, FullLoader\nload(text, FullLoader)",
        "import yaml\nclass Own(yaml.Loader): ...\nyaml.load(text, Own)",
        "import yaml\nyaml.unsafe_load(text)",
        "import yaml\nyaml.full_load(text)",
    ],
)
def test_each_fault_is_seen(text: str) -> None:
    assert faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "'import pickle'  # never pickle",
        "from pickle import UnpicklingError",
        "import re\nre.compile(text)",
        "network.eval()",
        "import torch\ntorch.load(place, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(place, allow_pickle=False)",
        "import json\njson.load(file)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import os\nos.execv(program, words)",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.load(text, yaml.SafeLoader)",
        "import yaml\nclass Own(yaml.SafeLoader): ...\nyaml.load(text, Own)",
    ],
)
def test_nothing_else_is_called_a_fault(text: str) -> None:
    assert faults(text) == []
