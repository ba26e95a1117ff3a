"""The harness itself, without the other tools: arrays, counted operations, targets, tables."""

import json

import jax
import numpy as np
import pytest

from curvlab.curvature import GaussNewton
from tests.benchmarks import problems, same_object
from tests.benchmarks import targets as targets_module
from tests.benchmarks.bench import Bench
from tests.benchmarks.curvlab_networks import as_tree, flat_order, predict_of, state_of
from tests.benchmarks.environments import Environments
from tests.benchmarks.equal_products import SECONDS, _seeds
from tests.benchmarks.networks_jax import predictor
from tests.benchmarks.product_cost import flops
from tests.benchmarks.report import BEGIN, END, draw
from tests.benchmarks.targets import targets
from tests.benchmarks.tools_curvlab import Curvlab

ROW = {"seconds": 1.0, "spread": [1, 1], "peak_bytes": 2**30}
DENSITY = {**ROW, "first_seconds": 2.0, "only_first": False, "products": 98, "band_width": 0.1}
RESULTS = {
    "machine": {"processor": "a processor", "cores": 2, "versions": {"own": {"jax": "1"}}},
    "seconds": {"density_time/mlp": 60.0},
    "product_cost": {
        "mlp": {
            "peak_flops": 1e11,
            "flops": {"gradient": 1e10, "hessian": 7e10, "ggn": 1e10},
            **{
                which: {"curvlab": ROW, "pyhessian": {"reason": "Hessian only"}}
                for which in ("gradient", "hessian", "ggn")
            },
        }
    },
    "lanczos_steps": {
        "mlp": {"order": 90, "ratio": 1.3, "orthogonality_float64": 2e-6, "tier": "device"}
    },
    "density_time": {
        "mlp": {
            "order": 90,
            "tools": {
                "curvlab": DENSITY,
                "pyhessian": {**DENSITY, "seconds": 1.6, "band_width": None},
                "matfree": {"reason": "took longer than 400 s"},
            },
            "kept": {"curvlab": DENSITY, "pyhessian": {**DENSITY, "seconds": 1.7}},
        },
        "resnet18": {"reason": "takes too long in every tool"},
    },
    "top_eigenvalues": {
        "resnet18": {"reason": "takes too long in every tool"},
        "mlp": {
            "tools": {
                "curvlab": {"seconds": 1.0, "products": 30, "worst_error": 0.001},
                "arpack": {"seconds": 2.0, "products": 35, "worst_error": 0.001},
                "pyhessian": {"seconds": 9.0, "products": 300, "worst_error": float("inf")},
            }
        },
    },
    "equal_products": {
        "healthy": {
            tool: {
                "eigenvalues": {
                    budget: [
                        {"largest": [luck * error] * 5, "smallest": error, "ghosts": 0}
                        for luck in (0.8, 0.9, 1.0, 1.1, 1.2)
                    ]
                    for budget in ("20", "40")
                },
                "measure": {b: [{"reason": "eigenvalues only"}] for b in ("20", "40")},
                "trace": {"30": [{"error": error, "covered": True}]},
            }
            for tool, error in (("curvlab", 0.02), ("arpack", 0.01))
        }
    },
    "coverage": {
        "trace": {"flat": {"hits": 1930, "draws": 2000, "least": 0.957, "width": 1.4}},
        "band": {"flat": {"hits": 28, "draws": 30, "least": 0.8}},
    },
    "memory": {"density": {"parameters": 10**8, "peak_per_parameters": 5.5}},
    "same_object": {
        "mlp": {
            "float32": {
                "curvlab": {"hessian": {"loss": 1.0, "gradient": 0.0, "products": 0.0}},
                "matfree": {"hessian": {"reason": "could not be installed"}},
                "pyhessian": {
                    "hessian": {"loss": 1.0, "gradient": 0.0, "products": 0.5, "same": False}
                },
            }
        }
    },
}


def test_problem_files_hold_plain_arrays(tmp_path):
    arrays = problems.speed_problem("small-mlp", 20)
    path = problems.save(arrays, tmp_path / "problem.npz")
    again = problems.load(path)
    assert again.spec == arrays.spec
    for left, right in zip(again.params, arrays.params, strict=True):
        np.testing.assert_array_equal(left, right)
    vector = np.arange(arrays.dim)
    np.testing.assert_array_equal(again.flatten(again.unflatten(vector)), vector)


@pytest.mark.parametrize("spec", [problems.SMALL, problems.NATURE, problems.RESNET])
def test_networks_are_those_of_curvlab(spec):
    arrays = problems.Arrays(
        spec, problems.initial(spec, 0), np.zeros((1, 1), np.float32), np.zeros(1)
    )
    shape = (2, *spec.get("shape", spec.get("widths", [0])[:1]))
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    state = state_of(arrays)
    extra = () if state is None else (state,)
    own = jax.jit(predict_of(spec))(as_tree(arrays), images, *extra)
    native = jax.jit(predictor(spec))(arrays.params, images)
    np.testing.assert_allclose(own, native, rtol=1e-4, atol=1e-4)
    order = flat_order(arrays)
    assert len(order) == arrays.dim
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(as_tree(arrays))])
    np.testing.assert_array_equal(flat[order], arrays.flatten(arrays.params))


def test_counted_operations_of_a_layer():
    counted = flops({"widths": [3, 5, 7]}, examples=2)
    first, second = 2 * 2 * 3 * 5, 2 * 2 * 5 * 7
    assert counted == {
        "gradient": 2 * first + 3 * second,
        "hessian": 2 * first + 6 * second,
        "ggn": 2 * first + 4 * second,
    }


def test_counted_operations_are_those_of_the_products():
    """Against the operations that XLA counts, elementwise ones included."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(100, 64)).astype(np.float32), rng.integers(0, 5, 100)
    for widths in ([64, 512, 512, 5], [64, 128, 128, 10]):
        spec = {"kind": "mlp", "activation": "relu", "widths": widths}
        arrays = problems.Arrays(spec, problems.initial(spec, 0), inputs, targets)
        counted = flops(spec, 100)
        ours = Curvlab(arrays).fresh(GaussNewton).gradients_per_product()
        assert counted["ggn"] / counted["gradient"] == pytest.approx(ours, rel=0.005)


def test_targets_say_what_was_reached_and_what_was_missed():
    found = {(t.quantity, t.problem): t.met for t in targets(RESULTS)}
    assert found["Hessian product / fastest gradient", "mlp"]
    assert found["Gauss-Newton product, of the matmul peak", "mlp"] is False
    assert found["largest entry of QᵀQ − I, in float64", "mlp"] is False
    assert found["slq(order=90) faster than pyhessian", "mlp"]
    assert found["slq(order=90) faster than matfree", "mlp"]
    assert found["slq(order=90) faster than laplax", "mlp"] is None
    kept = "slq(order=90) faster than {}, freed memory kept"
    assert found[kept.format("pyhessian"), "mlp"]
    assert (kept.format("matfree"), "mlp") not in found
    assert found["top 5 to 1 %: products", "mlp"]
    assert found["error at equal products, λ₁ … λ₅ / other tools", "healthy"] is False
    # A single draw of each says nothing.
    assert found["error at equal products, trace / other tools", "healthy"] is None
    assert found["peak memory of a density / parameters", "100,000,000 parameters"]
    assert found["95 % trace that stopped by itself holds the truth", "flat"]
    assert found["95 % trace: width / ideal", "flat"] is False
    assert found["95 % band that stopped by itself holds the truth", "flat"] is False


@pytest.mark.parametrize(
    ("seconds", "count"), [(0.0, 20), (SECONDS / 4, 6), (SECONDS, 3), (6 * SECONDS, 2)]
)
def test_as_many_seeds_as_there_is_time_for(seconds, count):
    # The first draw compiles: its time is not counted.
    draws = _seeds(lambda seed: ({"error": seed}, seconds if seed else 100 * SECONDS))
    assert [draw["error"] for draw in draws] == list(range(count))
    assert len(_seeds(lambda seed: ({"reason": "traces only"}, seconds))) == 1


def test_without_an_answer_of_curvlab_nothing_is_compared(tmp_path, monkeypatch):
    class Silent:
        def __init__(self, tool, *_):
            self.tool = tool

        def ask(self, do, *, to, **_):
            if self.tool == "curvlab":
                return {"error": "took longer than 600 s"}
            np.savez(to, gradient=np.ones(2), products=np.ones((1, 2)))
            return {"loss": 1.0}

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    monkeypatch.setattr(same_object, "Worker", Silent)
    bench = Bench(Environments(tmp_path), tmp_path / "results.json", quick=True)
    stale = tmp_path / "gate" / "small-mlp-0-curvlab-hessian.npz"
    stale.parent.mkdir()
    np.savez(stale, gradient=np.ones(2), products=np.ones((1, 2)))
    same_object.ask(bench)
    found = bench.results["same_object"]["small-mlp"]["float32"]
    assert found["curvlab"]["hessian"] == {"reason": "took longer than 600 s"}
    assert "no answer" in found["pyhessian"]["hessian"]["reason"]


def equal(*others, own=1.0, seeds=20, key=0):
    """Return the row of traces where errors are spread alike around so many times 1e-3."""
    draws = np.random.default_rng(key).lognormal(size=(1 + len(others), 3, seeds))
    tools = {
        f"tool {i}" if i else "curvlab": {
            "trace": {
                str(budget): [{"error": 1e-3 * size * draw} for draw in row]
                for budget, row in zip((30, 99, 300), rows, strict=True)
            }
        }
        for i, (size, rows) in enumerate(zip((own, *others), draws, strict=True))
    }
    (found,) = [t for t in targets({"equal_products": {"edge": tools}}) if "trace" in t.quantity]
    return found


def test_an_error_is_missed_only_beyond_chance():
    assert equal(*[1.0] * 7).verdict == "undecided"
    assert equal(*[4.0] * 7).verdict == "reached"
    assert equal(*[1.0] * 6, 0.1).verdict == "**missed**"
    assert "tool 7" in equal(*[1.0] * 6, 0.1).measured
    # Three seeds cannot show it, since each has the same vector at all numbers of products. Nor can
    # anything be told of what lies below rounding.
    assert equal(*[1.0] * 6, 0.02, seeds=3).verdict == "undecided"
    assert equal(*[1e-5] * 6, 1e-6, own=1e-5).verdict == "reached"


def test_equally_good_tools_are_seldom_missed(monkeypatch):
    monkeypatch.setattr(targets_module, "PERMUTATIONS", 500)
    found = [equal(*[1.0] * 7, seeds=8, key=key).verdict for key in range(60)]
    # Three expected at most: more than 9 of 60 have a chance of 0.1 %.
    assert found.count("**missed**") <= 9
    assert found.count("reached") <= 30


def test_tables_go_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nstale rows\n{END}\nafter\n")
    draw(RESULTS, page)
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "stale rows" not in text
    for part in (
        "**missed**",
        "could not be installed",
        "took longer than 400 s",
        "missed one",
        "too long in every",
    ):
        assert part in text
    assert text.count("pyhessian (different matrix)") == 4  # products, densities, eigenvalues
    assert "curvlab (different matrix)" not in text


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    output = tmp_path / "results.json"
    first = Bench(Environments(tmp_path), output, quick=True)
    first.once("memory/baseline", lambda: 1)
    second = Bench(Environments(tmp_path), output, quick=True)
    assert second.once("memory/baseline", lambda: 2) == 1
    second.forget(["memory"])
    assert second.once("memory/baseline", lambda: 3) == 3
    assert json.loads(output.read_text())["memory"] == {"baseline": 3}
