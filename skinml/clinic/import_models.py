"""Whether the models that make pictures safe are there, asked before anything slow is loaded."""

from __future__ import annotations

from skinml.data.onnx_models import require_packages


def require_import_models() -> None:
    """Make sure that the packages of the extra `import` are there; nothing of them is loaded.

    Raises:
        EnvironmentProblem: If one is not installed.
    """
    require_packages()
