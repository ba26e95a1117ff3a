"""Some leaves of a parameter tree, chosen by path: the parameters of a block.

A selection is a tuple of booleans, one for each leaf, so that jitted functions can take it as a
static argument. A part of a tree has the structure of the whole with None in the other places.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, PyTree

from curvlab.core.errors import OperatorError, UnknownNameError
from curvlab.core.trees import TreeLayout
from curvlab.curvature.objective import Objective


def layer_of(name: str) -> str:
    """Return the module that holds a leaf: ``"hidden_0"`` for ``"hidden_0/kernel"``."""
    return name.rpartition("/")[0] or name


def select(names: Sequence[str], paths: Iterable[str]) -> frozenset[str]:
    """Return the leaves at or below the given paths.

    Parameters
    ----------
    names
        Paths of all leaves.
    paths
        Paths of leaves, or prefixes that end where a part of a path ends.

    Raises
    ------
    UnknownNameError
        If a path has no leaves.
    """
    chosen: set[str] = set()
    for path in paths:
        found = [name for name in names if f"{name}/".startswith(f"{path}/")]
        if not found:
            raise UnknownNameError("parameter path", path, {*names, *map(layer_of, names)})
        chosen.update(found)
    return frozenset(chosen)


def choose(
    names: Sequence[str], layers: Sequence[str], paths: str | Iterable[str], last: int | None
) -> frozenset[str]:
    """Return the leaves that ``block(paths, last=...)`` means.

    Raises
    ------
    OperatorError
        If neither paths nor a number of layers is given, or both, or there are fewer layers, or
        the parameters are one bare array.
    """
    wanted = [paths] if isinstance(paths, str) else list(paths)
    if wanted and not any(names):
        raise OperatorError(
            f"block({wanted}) was asked of parameters that are one bare array, which has no path. "
            "Use the operator itself, or name the array: {'weights': array}."
        )
    if bool(wanted) == (last is not None):
        raise OperatorError(
            f"block({wanted}, last={last}) needs either paths or a number of layers. Write "
            f"block({layers[-1]!r}) or block(last=1)."
        )
    if last is None:
        return select(names, wanted)
    if not 1 <= last <= len(layers):
        raise OperatorError(
            f"block(last={last}) was asked of {len(layers)} layers: {', '.join(layers)}. Use a "
            f"number from 1 to {len(layers)}."
        )
    return frozenset(name for name in names if layer_of(name) in layers[-last:])


def split(tree: PyTree, chosen: Sequence[bool]) -> tuple[PyTree, PyTree]:
    """Return the chosen leaves and the others, each with None in the places of the other."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = list(zip(leaves, chosen, strict=True))
    return (
        treedef.unflatten([leaf if inside else None for leaf, inside in pairs]),
        treedef.unflatten([None if inside else leaf for leaf, inside in pairs]),
    )


def part_of(layout: TreeLayout, chosen: Sequence[bool]) -> TreeLayout:
    """Return the layout of the chosen leaves alone."""

    def of_chosen(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(value for value, inside in zip(values, chosen, strict=True) if inside)

    names = jax.tree_util.tree_unflatten(layout.treedef, layout.names)  # type: ignore[arg-type]
    return TreeLayout(
        jax.tree.structure(split(names, chosen)[0]),
        of_chosen(layout.names),
        of_chosen(layout.shapes),
        of_chosen(layout.dtypes),
    )


def merge(part: PyTree, rest: PyTree) -> PyTree:
    """Return the tree that :func:`split` cut in two."""

    def either(leaf: Any, other: Any) -> Any:
        return other if leaf is None else leaf

    return jax.tree.map(either, part, rest, is_leaf=lambda leaf: leaf is None)


def freeze(objective: Objective, fixed: PyTree) -> Objective:
    """Return the objective as a function of the leaves that are None in ``fixed``.

    For use inside a traced function: the result closes over arrays.
    """

    def of_part(function: Callable[..., Array]) -> Callable[..., Array]:
        return lambda part, *rest: function(merge(part, fixed), *rest)

    if objective.predict is None:
        return replace(objective, loss=of_part(objective.loss))
    return replace(objective, predict=of_part(objective.predict))
