"""Any dataset comes back from netCDF; files are named by what they are about."""

import time

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import CheckpointError, RunError
from curvlab.runs import open_run
from curvlab.runs.results import read_netcdf, to_netcdf

KEY = "0123456789abcdef"
DTYPES = ["float32", "float64", "int8", "int32", "int64", "uint8", "bool"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**31), 2**31), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)
ATTRIBUTES = st.dictionaries(st.sampled_from(["unit", "settings", "estimand"]), PLAIN)


@st.composite
def datasets(draw: st.DrawFn) -> xarray.Dataset:
    sizes = {"step": draw(st.integers(0, 3)), "vector": draw(st.integers(1, 2))}
    variables = {}
    for index in range(draw(st.integers(0, 3))):
        dims = draw(st.sampled_from([(), ("step",), ("step", "vector")]))
        shape = tuple(sizes[dim] for dim in dims)
        if draw(st.booleans()):
            values = draw(hnp.arrays(np.dtype(draw(st.sampled_from(DTYPES))), shape))
        else:
            values = draw(hnp.arrays(np.dtype("<U4"), shape, elements=TEXTS))
        variables[f"v{index}"] = (dims, values, draw(ATTRIBUTES))
    coords = {"vector": ("vector", [f"start {i}" for i in range(sizes["vector"])])}
    return xarray.Dataset(variables, coords, draw(ATTRIBUTES))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("results") / "file.nc"


def same_attributes(found: dict, expected: dict) -> bool:
    # NaN differs from itself, not from its own text; integers and floats stay what they are.
    return repr(sorted(found.items())) == repr(sorted(expected.items()))


@given(dataset=datasets())
def test_round_trip(place, dataset):
    place.write_bytes(to_netcdf(dataset))
    found = read_netcdf(place)
    assert found is not None
    xarray.testing.assert_equal(found, dataset)
    assert set(found.coords) == set(dataset.coords)
    assert same_attributes(found.attrs, dataset.attrs)
    for name, variable in dataset.variables.items():
        assert found[name].dims == variable.dims
        assert same_attributes(found[name].attrs, variable.attrs)
        if variable.dtype.kind == "U":
            assert found[name].values.tolist() == variable.values.tolist()
        else:
            assert found[name].dtype == variable.dtype
            assert found[name].values.tobytes() == variable.values.tobytes()


def test_reading_and_writing_again_changes_nothing(place):
    dataset = xarray.Dataset({"a": ("x", [1.0, np.nan]), "b": ("x", ["one", "two"])}, {"x": [0, 1]})
    first = to_netcdf(dataset)
    place.write_bytes(first)
    again = read_netcdf(place)
    assert again is not None
    assert to_netcdf(again) == first


def test_equal_datasets_give_equal_bytes_at_any_time():
    dataset = xarray.Dataset({"a": ("x", [1.0, np.nan])}, attrs={"order": 40})
    first = to_netcdf(dataset)
    time.sleep(1.1)  # HDF5 would store seconds.
    assert to_netcdf(dataset) == first


def test_writing_leaves_the_dataset_alone():
    dataset = xarray.Dataset({"a": ("x", [1.0])}, attrs={"converged": True})
    dataset.a.attrs["clusters"] = [[1, 2], []]
    to_netcdf(dataset)
    assert dataset.attrs == {"converged": True}
    assert dataset.a.attrs == {"clusters": [[1, 2], []]}


def test_a_result_is_found_by_what_it_is_about(run_path):
    run = open_run(run_path)
    dataset = xarray.Dataset({"value": ("pair", [1.0, np.nan])}, attrs={"seconds": 0.5})
    assert run.read_result("spectrum", 10, "task-000", KEY) is None
    path = run.write_result("spectrum", 10, "task-000", KEY, dataset)
    assert path.name == "spectrum-000000010-task-000-0123456789ab.nc"
    run.write_result("units", 0, "task-001", KEY, dataset)
    found = run.read_result("spectrum", 10, "task-000", KEY)
    assert found is not None
    xarray.testing.assert_identical(found, dataset)
    assert run.read_result("spectrum", 10, "task-000", KEY[::-1]) is None
    assert [(f.diagnostic, f.step, f.probe_set, f.key, f.path.parent) for f in run.results()] == [
        ("spectrum", 10, "task-000", KEY[:12], run_path / "results"),
        ("units", 0, "task-001", KEY[:12], run_path / "results"),
    ]
    assert run.verify() == ()


def test_other_libraries_can_open_it(run_path):
    import h5netcdf

    run = open_run(run_path)
    path = run.write_result("a", 0, "p", KEY, xarray.Dataset({"v": ("x", [1.0])}))
    with h5netcdf.File(path, "r") as file:
        assert file.variables["v"][:].tolist() == [1.0]


def test_stale_temporaries_are_removed(run_path):
    run = open_run(run_path)
    (run_path / "results").mkdir()
    (run_path / "results" / ".tmp-dead").write_bytes(b"half")
    assert run.results() == ()
    run.write_result("a", 0, "p", KEY, xarray.Dataset())
    assert sorted(entry.name for entry in (run_path / "results").iterdir()) == [
        ".lock",
        "a-000000000-p-0123456789ab.nc",
    ]


@pytest.mark.parametrize("damage", [b"", b"text", None])
def test_a_damaged_file_is_named(run_path, damage):
    run = open_run(run_path)
    path = run.write_result("a", 0, "p", KEY, xarray.Dataset({"v": ("x", np.zeros(1000))}))
    path.write_bytes(path.read_bytes()[:3000] if damage is None else damage)
    with pytest.raises(
        CheckpointError, match=r"expected a netCDF file.*Delete the file"
    ) as refusal:
        run.read_result("a", 0, "p", KEY)
    assert str(path) in str(refusal.value)
    assert [finding.path for finding in run.verify()] == [f"results/{path.name}"]


@pytest.mark.parametrize(
    ("diagnostic", "probe_set", "key", "part"),
    [
        ("a-b", "p", KEY, "use '_'"),
        ("a/b", "p", KEY, "letters"),
        ("a", "../p", KEY, "letters"),
        ("a", "p", "xyz", "hexadecimal"),
        ("a", "p", "0123", "at least 12"),
    ],
)
def test_bad_names_are_refused(run_path, diagnostic, probe_set, key, part):
    with pytest.raises(RunError, match=part):
        open_run(run_path).write_result(diagnostic, 0, probe_set, key, xarray.Dataset())
    assert not (run_path / "results").exists()


@pytest.mark.parametrize(
    "dataset",
    [
        xarray.Dataset({"v": ("x", np.array([object()]))}),
        xarray.Dataset(attrs={"bad": {1, 2}}),
    ],
)
def test_what_netcdf_cannot_hold_is_refused(run_path, dataset):
    with pytest.raises(RunError, match="store"):
        open_run(run_path).write_result("a", 0, "p", KEY, dataset)
