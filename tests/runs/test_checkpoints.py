"""Checkpoints: what comes back, what is refused, what analysis can do with them."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import CheckpointError, RunError, UnknownNameError
from curvlab.core.specs import Spec
from curvlab.networks import Predict, build_network, initialise
from curvlab.objectives import cross_entropy, squared_error
from curvlab.runs import RunWriter, build_optimiser, open_run, save_checkpoint
from curvlab.runs.manifests import check_manifest, write_manifest
from tests.runs.example import NETWORK, OBJECTIVE, OPTIMISER, batch, write_run


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_checkpoint_comes_back(stored_run, params):
    found = open_run(stored_run).checkpoint(10)
    assert (found.step, found.task) == (10, 0)
    assert found.probes == {"current": "task-000", "next": "task-001"}
    assert (found.network, found.objective, found.optimiser) == (NETWORK, OBJECTIVE, OPTIMISER)
    assert found.items == ("params", "opt_state", "statistics")
    assert_same(found.params, params)
    assert_same(found.opt_state, build_optimiser(OPTIMISER).init(params))
    assert_same(found.extra("statistics"), {"mean": np.arange(3.0)})
    with pytest.raises(RunError, match=r"no item 'params'.*opt_state, statistics"):
        found.extra("params")


def test_predict_and_loss_are_equal_for_all_checkpoints(stored_run):
    one, other = (open_run(stored_run).checkpoint(step) for step in (0, 100))
    assert one.predict == other.predict == Predict(build_network(NETWORK))
    assert hash(one.predict) == hash(other.predict)
    assert one.loss is other.loss is cross_entropy


def test_a_problem_is_built_from_the_stored_data(stored_run, params):
    checkpoint = open_run(stored_run).checkpoint(0)
    predict = Predict(build_network(NETWORK))
    for name, task in {"current": 0, "next": 1, "task-001": 1}.items():
        inputs, targets = batch(task)
        outputs = predict(params, jnp.asarray(inputs))
        expected = jnp.mean(cross_entropy(outputs, jnp.asarray(targets)))
        np.testing.assert_allclose(checkpoint.problem(name).value(), expected, rtol=1e-6)
    with pytest.raises(
        RunError, match=r"'last'\. Roles: current, next; stored: task-000, task-001"
    ):
        checkpoint.problem("last")


def test_a_network_with_running_statistics_is_analysed_in_its_state(tmp_path):
    spec = Spec("resnet", {"blocks": [1], "width": 2, "outputs": 3})
    images = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)
    labels = np.arange(6) % 3
    network = build_network(spec)
    params, state = initialise(network, jax.random.key(0), images)
    state = jax.tree.map(lambda leaf: leaf + 0.5, state)  # not what a fresh network has
    with RunWriter.create(tmp_path / "run", config={}, network=spec, objective=OBJECTIVE) as writer:
        writer.save_checkpoint(0, params, probes={"current": (images, labels)}, state=state)
        writer.save_checkpoint(1, params, probes={"current": (images, labels)})
    stored = open_run(tmp_path / "run")
    expected = cross_entropy(Predict(network)(params, jnp.asarray(images), state), labels).mean()
    np.testing.assert_allclose(stored.checkpoint(0).problem().value(), expected, rtol=1e-5)
    with pytest.raises(RunError, match=r"'resnet' needs the state batch_stats, which step 1 of"):
        stored.checkpoint(1).problem()
    mine = open_run(tmp_path / "run", predict=Predict(network), loss=cross_entropy)
    np.testing.assert_allclose(mine.checkpoint(0).problem().value(), expected, rtol=1e-5)


@pytest.mark.long  # compiles an Atari network three times
def test_the_stored_noise_is_used_and_can_be_left_out(tmp_path):
    spec = Spec(
        "atari", {"torso": "small42", "width": 0.1, "dueling": True, "noisy": True, "actions": 2}
    )
    frames = np.random.default_rng(0).integers(0, 255, (2, 42, 42, 4)).astype(np.uint8)
    targets = np.ones((2, 2), np.float32)
    network = build_network(spec)
    params, state = initialise(network, jax.random.key(0), frames)
    with RunWriter.create(
        tmp_path / "run", config={}, network=spec, objective=Spec("squared_error")
    ) as writer:
        writer.save_checkpoint(0, params, probes={"current": (frames, targets)}, state=state)
        writer.save_checkpoint(1, params, probes={"current": (frames, targets)})
    for step, noise in enumerate((state, None)):
        found = open_run(tmp_path / "run").checkpoint(step).problem().value()
        outputs = Predict(network)(params, jnp.asarray(frames), noise)
        np.testing.assert_allclose(found, squared_error(outputs, targets).mean(), rtol=1e-5)


def test_equal_runs_have_equal_digests(tmp_path, stored_run, params):
    write_run(tmp_path / "again", params)
    one, other = open_run(stored_run), open_run(tmp_path / "again")
    assert [one.checkpoint(s).digest for s in one.steps] == [
        other.checkpoint(s).digest for s in other.steps
    ]
    assert one.checkpoint(0).digest != one.checkpoint(10).digest
    write_run(tmp_path / "other", jax.tree.map(lambda leaf: leaf + 1, params))
    assert open_run(tmp_path / "other").checkpoint(0).digest != one.checkpoint(0).digest


def test_a_diverged_run_is_a_result(tmp_path):
    params = {"w": jnp.array([jnp.nan, jnp.inf, 1.0])}
    save_checkpoint(tmp_path / "run", 0, params)
    np.testing.assert_array_equal(open_run(tmp_path / "run").checkpoint(0).params["w"], params["w"])


DAMAGES = {
    "missing": lambda file: file.unlink(),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "altered": lambda file: file.write_bytes(
        file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])
    ),
    "grown": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "unexpected": lambda file: file.with_name("extra").write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_every_file_is_found(run_path, damage):
    directory = run_path / "checkpoints" / "000000010"
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    assert len(files) > 20
    for file in files:
        saved = file.read_bytes()
        DAMAGES[damage](file)
        findings = check_manifest(directory, root=run_path, advice="")
        named = file.with_name("extra") if damage == "unexpected" else file
        assert [finding.path for finding in findings] == [named.relative_to(run_path).as_posix()]
        if file.name != "manifest.json" or damage == "unexpected":
            assert findings[0].problem == ("altered" if damage == "grown" else damage)
        file.with_name("extra").unlink(missing_ok=True)
        file.write_bytes(saved)
    assert open_run(run_path).verify() == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_others_are_not(run_path, damage, capfd):
    directory = run_path / "checkpoints" / "000000010"
    (file,) = directory.glob("params/_METADATA")
    DAMAGES[damage](file)
    run = open_run(run_path)
    with pytest.raises(CheckpointError) as refusal:
        run.checkpoint(10)
    message = str(refusal.value)
    named = "extra" if damage == "unexpected" else "_METADATA"
    for part in (str(run_path), f"checkpoints/000000010/params/{named}", "expected", "found"):
        assert part in message
    assert "Restore the directory" in message
    assert run.checkpoint(100).step == 100
    assert capfd.readouterr() == ("", "")


def test_a_newer_schema_is_refused(run_path):
    directory = run_path / "checkpoints" / "000000010"
    spec = directory / "spec.json"
    spec.write_text(spec.read_text().replace('"schema": 1', '"schema": 2'))
    (directory / "manifest.json").unlink()
    write_manifest(directory)
    with pytest.raises(CheckpointError, match="expected schema up to 1, found 2"):
        open_run(run_path).checkpoint(10)


def test_other_probe_data_under_the_same_name_is_refused(run_path, tmp_path):
    with RunWriter.create(tmp_path / "other", config={}) as writer:
        writer.write_probe_set("task-000", *batch(7))
    shutil.copytree(tmp_path / "other/probe_sets", run_path / "probe_sets", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=r"probe set 'task-000' \(current\) with hash"):
        open_run(run_path).checkpoint(0)
    assert len(open_run(run_path).verify()) == 3


@pytest.mark.parametrize(
    ("network", "part"),
    [
        (
            Spec("mlp", {"widths": [8, 9], "outputs": 3}),
            r"expected shape \(9,\), found shape \(8,\)",
        ),
        (Spec("mlp", {"widths": [8], "outputs": 3}), "expected no such parameter, found shape"),
        (Spec("mlp", {"widths": [8, 8, 8], "outputs": 3}), "found no such parameter"),
    ],
)
def test_parameters_of_another_network_are_refused(tmp_path, params, network, part):
    with RunWriter.create(tmp_path / "run", config={}, network=network) as writer:
        writer.save_checkpoint(0, params, probes={"current": batch(0)})
    with pytest.raises(CheckpointError, match=part):
        open_run(tmp_path / "run").checkpoint(0)
    given = open_run(tmp_path / "run", predict=Predict(build_network(NETWORK)))
    assert_same(given.checkpoint(0).params, params)


def test_a_state_of_another_optimiser_is_refused_but_the_parameters_are_there(tmp_path, params):
    with RunWriter.create(tmp_path / "run", config={}, optimiser=Spec("sgd")) as writer:
        writer.save_checkpoint(0, params, build_optimiser(OPTIMISER).init(params))
    writer = RunWriter.create(
        tmp_path / "unknown", config={}, optimiser=Spec("mine", {"rate": 1.0})
    )
    with writer:
        writer.save_checkpoint(0, params, build_optimiser(OPTIMISER).init(params))
    wrong = Spec("sgd", {"learning_rate": 0.1})
    with RunWriter.create(tmp_path / "wrong", config={}, optimiser=wrong) as writer:
        writer.save_checkpoint(0, params, build_optimiser(OPTIMISER).init(params))
    with pytest.raises(RunError, match=r"learning_rate"):
        _ = open_run(tmp_path / "run").checkpoint(0).opt_state
    with pytest.raises(CheckpointError, match="expected 0 leaves"):
        _ = open_run(tmp_path / "wrong").checkpoint(0).opt_state
    found = open_run(tmp_path / "unknown").checkpoint(0).opt_state
    assert isinstance(found, list)
    assert_same(found[0]["mu"], jax.tree.map(jnp.zeros_like, params))


def test_an_own_network_with_own_types(tmp_path):
    params = [(jnp.ones((5, 3)), jnp.zeros(3))]

    def predict(params, inputs):
        (kernel, bias), *_ = params
        return inputs @ kernel + bias

    probes = {"current": (batch(0)[0], np.zeros((20, 3), np.float32))}
    save_checkpoint(tmp_path / "run", 0, params, probes=probes)
    plain = open_run(tmp_path / "run").checkpoint(0)
    assert_same(plain.params, [list(params[0])])
    assert plain.opt_state is None
    for function in (lambda: plain.predict, lambda: plain.loss):
        with pytest.raises(RunError, match=r"open_run\(path, predict="):
            function()
    run = open_run(tmp_path / "run", predict=predict, loss=squared_error)
    found = run.checkpoint(0, template=params)
    assert_same(found.params, params)
    assert found.problem().value() > 0


def test_unknown_names_offer_the_nearest(tmp_path, params):
    with RunWriter.create(
        tmp_path / "run", config={}, network=Spec("mpl"), objective=Spec("cross_entropie")
    ) as writer:
        writer.save_checkpoint(0, params)
    checkpoint = open_run(tmp_path / "run").checkpoint(0)
    with pytest.raises(UnknownNameError, match="Did you mean 'mlp'"):
        _ = checkpoint.predict
    with pytest.raises(UnknownNameError, match="Did you mean 'cross_entropy'"):
        _ = checkpoint.loss


def test_loading_needs_no_training_code_and_prints_nothing(stored_run):
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "from curvlab.runs import open_run\n"
        "checkpoint = open_run(sys.argv[1]).checkpoint(10)\n"
        "checkpoint.opt_state, checkpoint.problem('next').value()\n"
        "assert not any(name.split('.')[0] in ('agents', 'figures') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(stored_run)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_is_light():
    code = (
        "import sys, curvlab.runs\n"
        "heavy = {'orbax', 'xarray', 'h5netcdf', 'flax', 'optax', 'tensorstore'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
