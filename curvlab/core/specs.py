"""Plain-data references to code: a registered name plus settings, as stored in checkpoints."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spec:
    """A registered name with its settings; in JSON ``{"name": ..., "settings": {...}}``."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the form that goes into ``run.json`` and ``spec.json``."""
        return {"name": self.name, "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Spec":
        """Rebuild a spec from :meth:`to_json`."""
        return cls(str(data["name"]), dict(data.get("settings", {})))


def with_defaults(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings together with the defaults of the function that takes them."""
    parameters = inspect.signature(function).parameters.values()
    return {**{one.name: one.default for one in parameters}, **settings}
