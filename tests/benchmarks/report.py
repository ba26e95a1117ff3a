"""Draw the tables of ``docs/performance.md`` from the results."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.equal_products import VECTORS
from tests.benchmarks.targets import targets

DIFFERENT = "different matrix"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def draw(results: dict[str, Any], page: Path | None) -> None:
    """Print the tables, or put them between the marks of a page."""
    text = "\n\n".join(section for section in _sections(results) if section)
    if page is None:
        print(text)  # noqa: T201
        return
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


def _sections(results: dict[str, Any]) -> Iterable[str]:
    yield _machine(results)
    yield "### Targets\n\n" + table(
        ("quantity", "problem", "target", "measured", ""),
        [(t.quantity, t.problem, t.wanted, t.measured, t.verdict) for t in targets(results)],
    )
    yield "### Tools and problems\n\n" + _matrix(results)
    for name, found in results.get("product_cost", {}).items():
        yield f"### Products: {name}\n\n" + _products(found, _names(results, name))
    for name, found in results.get("density_time", {}).items():
        if "tools" in found:
            title = f"### Density, one start vector, order {found['order']}: {name}"
            for key, setting in (("tools", ""), ("kept", ", freed memory kept")):
                if key in found:
                    shown = _density(found[key], found["order"], _names(results, name))
                    yield f"{title}{setting}\n\n{shown}"
    for name, found in results.get("top_eigenvalues", {}).items():
        yield f"### Five largest eigenvalues to 1 %: {name}\n\n" + _top(
            found, _names(results, name)
        )
    if "equal_products" in results:
        yield "### Error at equal products\n\n" + _equal(results["equal_products"])
        yield "### Traces\n\n" + _traces(results["equal_products"])
    if "scaling" in results:
        yield "### Cost against products\n\n" + _steps(results["scaling"])
    if "same_object" in results:
        yield "### The same matrix?\n\n" + _gate(results["same_object"])


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits."""
    return "-" if value is None else f"{value:.{digits}g}"


def _names(results: dict[str, Any], problem: str) -> Callable[[str], str]:
    """Return what to call each tool: one that means another matrix is said to."""
    compared = results.get("same_object", {}).get(problem, {}).values()
    different = {
        tool
        for tools in compared
        for tool, matrices in tools.items()
        if not all(gaps.get("same", True) for gaps in matrices.values())
    }
    return lambda tool: f"{tool} ({DIFFERENT})" if tool in different else tool


def _machine(results: dict[str, Any]) -> str:
    machine = results.get("machine", {})
    versions = {k: v for rows in machine.get("versions", {}).values() for k, v in rows.items()}
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    minutes = sum(results.get("seconds", {}).values()) / 60
    return (
        f"{machine.get('processor', 'unknown processor')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('memory', '?')} memory, {machine.get('system', '')}. {listed}. "
        f"All measurements: {minutes:.0f} minutes."
    )


def _matrix(results: dict[str, Any]) -> str:
    found = results.get("density_time", {})
    tools = list(dict.fromkeys(tool for rows in found.values() for tool in rows.get("tools", {})))
    tools += ["arpack", "traceax"]

    def cell(tool: str, problem: str) -> str:
        row = found[problem].get("tools", {}).get(tool)
        if row is None:
            other = {"arpack": "eigenvalues only", "traceax": "traces only"}
            return other.get(tool) or found[problem].get("reason", "not asked")
        return row.get("reason") or f"{number(row['seconds'])} s"

    return table(("tool", *found), [(t, *(cell(t, p) for p in found)) for t in tools])


def _products(found: dict[str, Any], named: Callable[[str], str]) -> str:
    tools = list(found["gradient"])
    fastest = min(
        (r["seconds"] for t, r in found["gradient"].items() if "curvlab" in t and "seconds" in r),
        default=None,
    )

    def cell(which: str, tool: str) -> str:
        row = found[which].get(tool, {"reason": "-"})
        if "seconds" not in row:
            return row["reason"]
        ratio = f" ({row['seconds'] / fastest:.2f})" if fastest else ""
        return f"{1000 * row['seconds']:.0f} ms{ratio}"

    head = ("tool", "gradient", "Hessian product", "Gauss-Newton product", "peak memory")
    rows = []
    for tool in tools:
        memory = max(found[w].get(tool, {}).get("peak_bytes", 0) for w in ("gradient", "hessian"))
        cells = (cell(w, tool) for w in ("gradient", "hessian", "ggn"))
        rows.append((named(tool), *cells, f"{memory / 2**30:.2f} GiB"))
    return "In brackets: times the fastest JAX form of the gradient.\n\n" + table(head, rows)


def _density(tools: dict[str, Any], order: int, named: Callable[[str], str]) -> str:
    own = tools.get("curvlab", {}).get("seconds")

    def row(tool: str, cells: dict[str, Any]) -> tuple[str, ...]:
        if "reason" in cells:
            return (named(tool), cells["reason"], "", "", "", "")
        note = " (one call, compilation included)" if cells["only_first"] else ""
        return (
            named(tool),
            number(cells["seconds"]) + " s" + note,
            number(cells["seconds"] / own) if own else "-",
            number(cells["products"]) if cells["products"] else str(order),
            f"{cells['peak_bytes'] / 2**30:.2f} GiB",
            "yes" if cells["band_width"] else "no",
        )

    head = ("tool", "time", "times curvlab", "products", "peak memory", "band")
    return table(head, [row(tool, cells) for tool, cells in tools.items()])


def _top(found: dict[str, Any], named: Callable[[str], str]) -> str:
    if "reason" in found:
        return found["reason"]
    rows = []
    for tool, cells in found["tools"].items():
        if "reason" in cells:
            rows.append((named(tool), cells["reason"], "", ""))
            continue
        error = cells["worst_error"]
        shown = "missed one" if not np.isfinite(error) else f"{100 * error:.2g} %"
        rows.append((named(tool), cells["products"], number(cells["seconds"]) + " s", shown))
    return table(("tool", "products", "time", "worst error"), rows)


def middle(rows: list[dict[str, Any]], pick: Callable[[dict[str, Any]], Any]) -> float | None:
    """Return the median over seeds, or None where there is no number."""
    values = [pick(row) for row in rows if "reason" not in row]
    values = [np.inf if v is None or np.isnan(v) else v for v in values]
    return float(np.median(values)) if values else None


def top_error(row: dict[str, Any]) -> float:
    """Return the worst relative error of the five largest."""
    return float(np.max([np.inf if v is None else v for v in row["largest"]]))


def _answers(rows: list[dict[str, Any]]) -> int:
    return sum("reason" not in row for row in rows)


def _shown(scores: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the last but one budget, with which tools differ most, or the only one."""
    return list(scores.items())[-2:][:1]


def _equal(found: dict[str, Any]) -> str:
    head = (
        "problem",
        "tool",
        "products",
        "seeds",
        "λ₁ … λ₅",
        "λ_min",
        "ghosts",
        "W₁",
        "K bulk",
        "near zero",
    )
    rows = []
    for problem, tools in found.items():
        for tool, scores in tools.items():
            for budget, runs in _shown(scores["eigenvalues"]):
                measures = scores["measure"][budget]
                cells = (
                    middle(runs, top_error),
                    middle(runs, lambda r: r["smallest"]),
                    middle(runs, lambda r: r["ghosts"]),
                    middle(measures, lambda r: r["wasserstein"]),
                    middle(measures, lambda r: r["bulk_kolmogorov"]),
                    middle(measures, lambda r: r["near_zero_mass_error"]),
                )
                if any(c is not None for c in cells):
                    seeds = f"{_answers(runs)} and {_answers(measures)}"
                    rows.append((problem, tool, budget, seeds, *(number(c, 2) for c in cells)))
    return (
        "Medians over seeds (so many of eigenvalues and of measures); measures from "
        f"{VECTORS} start vectors of that many products each. "
        "W₁ relative to max|λ|; K: Kolmogorov distance. Other numbers of products are in "
        "`docs/benchmarks.json`.\n\n" + table(head, rows)
    )


def _traces(found: dict[str, Any]) -> str:
    rows = []
    for problem, tools in found.items():
        for tool, scores in tools.items():
            for budget, runs in _shown(scores["trace"]):
                error = middle(runs, lambda r: r["error"])
                held = [r["covered"] for r in runs if r.get("covered") is not None]
                share = f"{sum(held)} of {len(held)}" if held else "no interval"
                if error is not None:
                    seeds = _answers(runs)
                    rows.append((problem, tool, budget, seeds, number(error, 2), share))
    return table(("problem", "tool", "products", "seeds", "relative error", "interval held"), rows)


def _steps(found: dict[str, Any]) -> str:
    products = found["products"]
    columns = (
        products["all"]["x"],
        products["steps without a basis"]["seconds"],
        products["reorthogonalisation"],
    )
    head = ("steps (small MLP)", "without a basis", "reorthogonalisation")
    rows = [
        (int(m), *(f"{1e3 * t:.0f} ms" for t in times)) for m, *times in zip(*columns, strict=True)
    ]
    return table(head, rows)


def _gate(found: dict[str, Any]) -> str:
    rows = []
    for problem, precisions in found.items():
        for dtype, tools in precisions.items():
            for tool, matrices in tools.items():
                for matrix, gaps in matrices.items():
                    if "reason" in gaps:
                        rows.append((problem, dtype, tool, matrix, gaps["reason"], "", "", ""))
                        continue
                    cells = (gaps.get("loss_gap"), gaps["gradient"], gaps["products"])
                    verdict = "yes" if gaps.get("same", True) else DIFFERENT
                    shown = (number(c, 2) for c in cells)
                    rows.append((problem, dtype, tool, matrix, *shown, verdict))
    head = ("problem", "precision", "tool", "matrix", "loss", "gradient", "products", "same")
    return table(head, rows)
