"""What was to be reached, and what was: every row of the table of targets."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from tests.oracles.score import NAMES

PEERS = ("pyhessian", "curvlinops", "eigenthings", "matfree", "laplax")
FLOOR = {"float32": 1e-6, "float64": 1e-12}
"""Errors below this are rounding and count as equal."""

PERMUTATIONS = 10_000
"""Permutations of a test: the least chance that it can show is 1e-4."""


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
    for part in (
        _products, _steps, _density, _top, _equal, _coverage, _checkpoints, _memory, _gram, _scaling
    ):  # fmt: skip
        try:
            rows.extend(part(results))
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
                reason = found[which]["curvlab"].get("reason", "-")
                what = f"{label} product / fastest gradient"
                yield Target(what, name, f"≤ {limit:g}", reason, None)
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
        for tool in PEERS:
            row = tools.get(tool, {"reason": "not asked"})
            what = f"slq(order={found['order']}) faster than {tool}"
            yield _faster(what, name, tool, row, tools["curvlab"].get("seconds"))
        kept = found.get("kept", {})
        for tool in PEERS:
            if tool in kept:
                what = f"slq(order={found['order']}) faster than {tool}, freed memory kept"
                yield _faster(what, name, tool, kept[tool], kept["curvlab"].get("seconds"))


def _faster(what: str, name: str, tool: str, row: dict[str, Any], own: float | None) -> Target:
    mlp = "mlp" in name
    native_scan = tool in ("matfree", "laplax") and not mlp
    limit = 10.0 if native_scan else 2.0
    if tool == "pyhessian":
        limit = 1.5 if mlp else 1.2
    if "seconds" in row and own:
        return _at_least(what, name, row["seconds"] / own, limit, " ×")
    reason = row.get("reason", "-")
    waited = re.fullmatch(r"took longer than (\d+) s", reason)
    least = int(waited[1]) / own if waited and own else 0.0
    said = f"> {least:.3g} ×" if least else reason
    return Target(what, name, f"≥ {limit:g} ×", said, least >= limit or None)


def _top(results: dict[str, Any]) -> Iterator[Target]:
    for name, found in results.get("top_eigenvalues", {}).items():
        if "reason" in found:
            continue
        tools = found["tools"]
        own, arpack = tools["curvlab"], tools["arpack"]
        if "products" not in own or "products" not in arpack:
            reason = own.get("reason") or arpack.get("reason", "-")
            yield Target("top 5 to 1 %: products", name, "ARPACK's + 5", reason, None)
            continue
        limit = arpack["products"] + 5
        yield _at_most("top 5 to 1 %: products", name, own["products"], limit)
        yield _at_most("top 5: worst error", name, 100 * own["worst_error"], 1.0, " %")
        for tool in PEERS:
            row = tools.get(tool, {"reason": "not asked"})
            if "seconds" not in row:
                yield Target(f"top 5 faster than {tool}", name, "≥ 3 ×", row["reason"], None)
                continue
            right = row["worst_error"] <= 0.01
            speed = row["seconds"] / own["seconds"]
            what = f"top 5 faster than {tool}" + ("" if right else " (which is not right to 1 %)")
            yield _at_least(what, name, speed, 3, " ×")


def _equal(results: dict[str, Any]) -> Iterator[Target]:
    """Compare errors with each tool, at each number of products.

    Errors are draws, so the best of several tools is best by luck too. A row is *missed* where
    curvlab's errors are more than 1.05 times those of some tool beyond chance: by the ranks of the
    seeds within each number of products, added up over these, with Holm's correction for the tools
    of the row (5 %); three seeds cannot show it. Otherwise it is *reached* where, for every tool,
    the ratio of medians is at most 1.05 in the geometric mean over numbers of products, and
    *undecided* where it is not. What is shown is the largest of these ratios, or that of the tool
    that was missed, and the least chance.
    """
    from tests.benchmarks.report import top_error

    scores = {
        "λ₁ … λ₅": ("eigenvalues", top_error),
        "λ_min": ("eigenvalues", lambda r: r["smallest"]),
        "Wasserstein": ("measure", lambda r: r["wasserstein"]),
        "Kolmogorov": ("measure", lambda r: r["kolmogorov"]),
        "trace": ("trace", lambda r: r["error"]),
    }
    for problem, tools in results.get("equal_products", {}).items():
        floor = FLOOR["float32" if problem in (*NAMES, "digits-cnn") else "float64"]
        for label, (group, pick) in scores.items():
            compared = [
                (tool, budget, _draws(own, pick, floor), _draws(scored[group][budget], pick, floor))
                for budget, own in tools.get("curvlab", {}).get(group, {}).items()
                for tool, scored in tools.items()
                if tool != "curvlab" and budget in scored[group]
            ]
            compared = [row for row in compared if row[2] and row[3]]
            said, met = _verdict(compared)
            yield Target(
                f"error at equal products, {label} / other tools", problem, "≤ 1.05", said, met
            )


def _draws(
    rows: list[dict[str, Any]], pick: Callable[[dict[str, Any]], Any], floor: float
) -> list[float]:
    """Return the errors of all seeds, none below rounding; none at all is infinite."""
    found = [pick(row) for row in rows if "reason" not in row]
    return [np.inf if e is None or np.isnan(e) else max(e, floor) for e in found]


def _verdict(compared: list[tuple[str, Any, list[float], list[float]]]) -> tuple[str, bool | None]:
    """Return what is shown and whether it was reached, of (tool, products, own errors, others)."""
    if not compared:
        return "-", None
    by_tool: dict[str, list[tuple[list[float], list[float]]]] = {}
    for tool, _, own, theirs in compared:
        by_tool.setdefault(tool, []).append((own, theirs))
    chances = {tool: _chance(pairs) for tool, pairs in by_tool.items()}
    means = {
        tool: float(np.exp(np.mean([np.log(_ratio(*pair)) for pair in pairs])))
        for tool, pairs in by_tool.items()
    }
    least = min(chances, key=lambda t: chances[t])
    missed = len(chances) * chances[least] <= 0.05  # Holm rejects some just where Bonferroni does
    tool = least if missed else max(means, key=lambda t: means[t])
    said = f"{means[tool]:.3g} ({tool}); p = {min(1.0, len(chances) * chances[least]):.2g}"
    return said, False if missed else (True if means[tool] <= 1.05 else None)


def _ratio(own: list[float], theirs: list[float]) -> float:
    """Return the ratio of medians; without an answer it is a thousand, one way or the other."""
    ours, other = np.median(own), np.median(theirs)
    if np.isinf(ours) and np.isinf(other):
        return 1.0
    return float(np.clip(ours / other, 1e-3, 1e3))


def _chance(strata: list[tuple[list[float], list[float]]]) -> float:
    """Return the probability of ranks like these if own errors were 1.05 times the others'.

    A permutation test of the sum over strata of rank sums, each over the stratum's size plus one.
    A seed has the same start vector in all strata, so its ranks go together; seeds are exchanged
    with those that were drawn in the same strata.
    """
    scores: dict[tuple[bool, int], float] = {}
    drawn_in: dict[tuple[bool, int], tuple[int, ...]] = {}
    for stratum, (own, theirs) in enumerate(strata):
        pooled = np.minimum(np.concatenate([own, 1.05 * np.array(theirs)]), 1e300)
        ranks = scipy.stats.rankdata(pooled) / (len(pooled) + 1)
        seeds = [(True, i) for i in range(len(own))] + [(False, i) for i in range(len(theirs))]
        for seed, rank in zip(seeds, ranks, strict=True):
            scores[seed] = scores.get(seed, 0.0) + float(rank)
            drawn_in[seed] = (*drawn_in.get(seed, ()), stratum)
    rng, statistic, drawn = np.random.default_rng(0), 0.0, np.zeros(PERMUTATIONS)
    for where in set(drawn_in.values()):
        alike = sorted(seed for seed, strata_of in drawn_in.items() if strata_of == where)
        count, found = sum(own for own, _ in alike), np.array([scores[seed] for seed in alike])
        statistic += found[[own for own, _ in alike]].sum()
        shuffled = rng.permuted(np.tile(found, (PERMUTATIONS, 1)), axis=1)
        drawn += shuffled[:, :count].sum(1)
    return float((1 + (drawn >= statistic - 1e-9).sum()) / (1 + PERMUTATIONS))


def _coverage(results: dict[str, Any]) -> Iterator[Target]:
    for kind, found in results.get("coverage", {}).items():
        for name, row in found.items():
            share, least = 100 * row["hits"] / row["draws"], 100 * row["least"]
            said = f"{share:.3g} % of {row['draws']}; with 95 % certainty ≥ {least:.3g} %"
            what = f"95 % {kind} that stopped by itself holds the truth"
            yield Target(what, name, "≥ 93 %", said, least >= 93)
            if "width" in row:
                yield _at_most(f"95 % {kind}: width / ideal", name, row["width"], 1.3)


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
