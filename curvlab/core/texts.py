"""Times and numbers as people read them, the same in tables, messages and reports."""

import math


def duration(seconds: float) -> str:
    """Return a time as ``"42 s"``, ``"3:20 min"`` or ``"2:05 h"``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def number(value: float, digits: int = 3) -> str:
    """Return a number for a table, ``"-"`` for what was not measured."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def with_interval(value: float, low: float, high: float) -> str:
    """Return a number with its interval, ``"-"`` for what was not measured."""
    return "-" if math.isnan(value) else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def with_radius(value: float, low: float, high: float) -> str:
    """Return a number with the radius of its symmetric interval."""
    return "-" if math.isnan(value) else f"{value:#.4g} ± {(high - low) / 2:.1g}"
