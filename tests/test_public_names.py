"""The public names of `curvlab`: complete, importable, lazily loaded, never hidden by a module."""

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import curvlab

SOURCE = Path(curvlab.__file__)


@pytest.mark.parametrize("name", sorted(curvlab.PUBLIC_NAMES))
def test_name_imports_and_stays(name: str) -> None:
    first = getattr(curvlab, name)
    assert getattr(curvlab, name) is first
    assert name in dir(curvlab)
    assert first.__doc__, f"curvlab.{name} has no docstring"


def test_no_name_equals_a_subpackage() -> None:
    modules = {module.name for module in pkgutil.iter_modules(curvlab.__path__)}
    assert modules, "found no subpackages"
    assert not modules & set(curvlab.PUBLIC_NAMES)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(SOURCE.read_text())
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imported = {
        alias.asname: node.module
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == curvlab.PUBLIC_NAMES


def test_reference_pages_describe_every_name() -> None:
    page = (SOURCE.parents[1] / "docs" / "api.md").read_text()
    for name, module in curvlab.PUBLIC_NAMES.items():
        assert f"::: {module}.{name}\n" in page, f"docs/api.md lacks {module}.{name}"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'hessain'"):
        _ = curvlab.hessain


def test_import_loads_nothing_heavy() -> None:
    code = "import curvlab, json, sys; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=SOURCE.parents[1],
    )
    loaded = set(json.loads(output.stdout))
    assert not loaded & {"jax", "flax", "orbax", "xarray", "matplotlib", "scipy", "numpy"}


def test_library_does_not_import_the_applications() -> None:
    code = (
        "import curvlab, importlib, pkgutil, sys\n"
        "for module in pkgutil.walk_packages(curvlab.__path__, 'curvlab.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert not {'agents', 'figures'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SOURCE.parents[1])
