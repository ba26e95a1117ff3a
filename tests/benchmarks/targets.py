"""What was to be reached, and what was: every row of the table of targets."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

PEERS = ("pyhessian", "curvlinops", "eigenthings", "matfree", "laplax")
FLOOR = {"float32": 1e-6, "float64": 1e-12}
"""Errors below this are rounding and count as equal."""


@dataclass(frozen=True)
class Target:
    """One row: ``met`` is None where nothing was measured, or what was leaves it open."""

    quantity: str
    problem: str
    wanted: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        unknown = "undecided" if re.match(r">|\d", self.measured) else "not measured"
        return {True: "reached", False: "**missed**", None: unknown}[self.met]


def targets(results: dict[str, Any]) -> list[Target]:
    """Compare the results with the targets."""
    rows: list[Target] = []
    for part in (_products, _steps, _density, _top, _equal, _checkpoints, _memory, _gram, _scaling):
        try:
            rows += list(part(results))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            rows.append(Target(part.__name__.strip("_"), "", "", f"no result: {error!r}", None))
    return rows


def _at_most(quantity: str, problem: str, value: float | None, limit: float, unit: str = "") -> Any:
    if value is None or not np.isfinite(value):
        return Target(quantity, problem, f"≤ {limit:g}{unit}", "-", None)
    return Target(quantity, problem, f"≤ {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit)


def _at_least(quantity: str, problem: str, value: float, limit: float, unit: str = "") -> Target:
    return Target(quantity, problem, f"≥ {limit:g}{unit}", f"{value:.3g}{unit}", value >= limit)


def _products(results: dict[str, Any]) -> Iterator[Target]:
    for name, found in results.get("product_cost", {}).items():
        forms = [
            row["seconds"]
            for tool, row in found["gradient"].items()
            if "curvlab" in tool and "seconds" in row
        ]
        if not forms:
            continue
        for which, label, limit in (("hessian", "Hessian", 1.25), ("ggn", "Gauss-Newton", 1.0)):
            seconds = found[which]["curvlab"].get("seconds")
            if seconds is None:
                continue
            ratio = seconds / min(forms)
            yield _at_most(f"{label} product / fastest gradient", name, ratio, limit)
            if found.get("flops") and found["peak_flops"]:
                share = 100 * found["flops"][which] / seconds / found["peak_flops"]
                yield _at_least(f"{label} product, of the matmul peak", name, share, 60, " %")


def _steps(results: dict[str, Any]) -> Iterator[Target]:
    for name, found in results.get("lanczos_steps", {}).items():
        if "ratio" in found:
            limit = 1.40 if "mlp" in name else 1.25
            what = f"Lanczos step / product, mean of {found['order']}"
            yield _at_most(what, name, found["ratio"], limit)
            gap = found["orthogonality_float64"]
            yield _at_most("largest entry of QᵀQ − I, in float64", name, gap, 1e-6)


def _density(results: dict[str, Any]) -> Iterator[Target]:
    for name, found in results.get("density_time", {}).items():
        if "reason" in found:
            continue
        tools = found["tools"]
        own = tools["curvlab"].get("seconds")
        for tool in PEERS:
            row = tools.get(tool, {"reason": "not asked"})
            mlp = "mlp" in name
            native_scan = tool in ("matfree", "laplax") and not mlp
            limit = 10.0 if native_scan else 2.0
            if tool == "pyhessian":
                limit = 1.5 if mlp else 1.2
            what = f"slq(order={found['order']}) faster than {tool}"
            if "seconds" in row and own:
                yield _at_least(what, name, row["seconds"] / own, limit, " ×")
            else:
                reason = row.get("reason", "-")
                waited = re.fullmatch(r"took longer than (\d+) s", reason)
                least = int(waited[1]) / own if waited and own else 0.0
                said = f"> {least:.3g} ×" if least else reason
                yield Target(what, name, f"≥ {limit:g} ×", said, least >= limit or None)


def _top(results: dict[str, Any]) -> Iterator[Target]:
    for name, found in results.get("top_eigenvalues", {}).items():
        if "reason" in found:
            continue
        tools = found["tools"]
        own, arpack = tools["curvlab"], tools["arpack"]
        limit = arpack["products"] + 5
        yield _at_most("top 5 to 1 %: products", name, own["products"], limit)
        yield _at_most("top 5: worst error", name, 100 * own["worst_error"], 1.0, " %")
        for tool in PEERS:
            row = tools.get(tool, {})
            if "seconds" not in row:
                continue
            right = row["worst_error"] <= 0.01
            speed = row["seconds"] / own["seconds"]
            what = f"top 5 faster than {tool}" + ("" if right else " (which is not right to 1 %)")
            yield _at_least(what, name, speed, 3, " ×")


def _equal(results: dict[str, Any]) -> Iterator[Target]:
    from tests.benchmarks.report import middle, top_error

    scores = {
        "λ₁ … λ₅": ("eigenvalues", top_error),
        "λ_min": ("eigenvalues", lambda r: r["smallest"]),
        "Wasserstein": ("measure", lambda r: r["wasserstein"]),
        "Kolmogorov": ("measure", lambda r: r["kolmogorov"]),
        "trace": ("trace", lambda r: r["error"]),
    }
    for problem, tools in results.get("equal_products", {}).items():
        matrix = problem == "symmetric" or "-" in problem
        floor = FLOOR["float64" if matrix and problem != "digits-cnn" else "float32"]
        for label, (group, pick) in scores.items():
            worst, said = 0.0, "-"
            verdicts: list[bool | None] = []
            for budget in tools.get("curvlab", {}).get(group, {}):
                errors = {t: middle(s[group].get(budget, []), pick) for t, s in tools.items()}
                own = errors.pop("curvlab")
                known = {t: e for t, e in errors.items() if e is not None and np.isfinite(e)}
                if own is None or not known:
                    continue
                best = min(known, key=lambda t: known[t])
                ratio = max(own, floor) / max(known[best], floor)
                runs = (tools[tool][group][budget] for tool in ("curvlab", best))
                verdicts.append(True if ratio <= 1.05 else _open(next(runs), next(runs), pick))
                if ratio > worst:
                    worst, said = ratio, f"{ratio:.3g} ({best}, {budget} products)"
            what = f"error at equal products, {label} / best tool"
            met = False if False in verdicts else None
            if verdicts and all(verdicts):
                met = True
            yield Target(what, problem, "≤ 1.05", said, met)


def _open(
    own: list[dict[str, Any]], other: list[dict[str, Any]], pick: Callable[[dict[str, Any]], Any]
) -> bool | None:
    """Return False if errors are larger beyond chance (5 %, by ranks over seeds), otherwise None.

    Both start from random vectors of their own, so that medians of a few seeds differ by luck.
    """
    ours, theirs = ([pick(row) for row in rows if "reason" not in row] for rows in (own, other))
    larger = scipy.stats.mannwhitneyu(ours, theirs, alternative="greater").pvalue
    return False if larger <= 0.05 else None


def _checkpoints(results: dict[str, Any]) -> Iterator[Target]:
    for name, found in results.get("next_checkpoint", {}).items():
        if "compilations" in found:
            compiled = sum(found["compilations"][1:])
            yield _at_most("compilations after the first checkpoint", name, compiled, 0)
            same = len(set(found["products"])) == 1
            yield Target("products of each checkpoint", name, "equal", str(found["products"]), same)
            spread = 100 * found["largest_deviation"]
            yield _at_most("wall time from the median", name, spread, 15, " %")


def _memory(results: dict[str, Any]) -> Iterator[Target]:
    found = results.get("memory", {}).get("density")
    if found:
        label = f"{found.get('parameters', 0):,} parameters"
        peak = found.get("peak_per_parameters")
        yield _at_most("peak memory of a density / parameters", label, peak, 6)


def _gram(results: dict[str, Any]) -> Iterator[Target]:
    for name, found in results.get("gradient_gram", {}).items():
        own, plain = found["structured"], found["vmap"]
        if "seconds" in own and "seconds" in plain:
            speed = plain["seconds"] / own["seconds"]
            yield _at_least("gradient_gram faster than vmap(grad)", name, speed, 5, " ×")
            same = abs(own["norm"] / plain["norm"] - 1)
            yield _at_most("gradient_gram: difference from vmap(grad)", name, same, 1e-4)
        for way, limit in (("structured", 1.2), ("generic", 3.5)):
            peak = found[way].get("peak_bytes")
            value = peak / 1e9 if peak and "norm" in found[way] else None
            yield _at_most(f"gradient_gram, {way}: peak", name, value, limit, " GB")


def _scaling(results: dict[str, Any]) -> Iterator[Target]:
    found = results.get("scaling", {})
    lines = {"examples": found.get("examples")}
    lines |= {"products": found["products"]["steps without a basis"]} if "products" in found else {}
    for what, line in lines.items():
        if line:
            left, label = 100 * line["unexplained"], f"cost = a + b × {what}: variance left over"
            yield _at_most(label, "small-mlp", left, 5, " %")
