"""Names for networks, losses, operators and diagnostics, so that plain data can refer to code.

Outside packages add entries through the entry-point group of the registry; those are loaded only
when a name is not found among the built-in ones.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from curvlab.core.errors import UnknownNameError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """A table from names to objects of one kind.

    Parameters
    ----------
    kind
        What the entries are, for error messages (``"network"``).
    group
        Entry-point group in which other packages may offer entries (``"curvlab.networks"``).
    """

    def __init__(self, kind: str, group: str):
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that files its argument under ``name``."""

        def add(entry: Entry) -> Entry:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"Two {self.kind}s are called {name!r}; rename one.")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            for point in entry_points(group=self.group, name=name):
                self._entries[name] = point.load()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        offered = {point.name for point in entry_points(group=self.group)}
        return iter(sorted(self._entries.keys() | offered))

    def __contains__(self, name: object) -> bool:
        return name in set(self)
