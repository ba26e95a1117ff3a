"""The one call that plans, measures and collects."""

from collections.abc import Callable, Sequence

import xarray as xr

from curvlab.analysis.collect import collect
from curvlab.analysis.execute import Progress, execute
from curvlab.analysis.plan import DEFAULT_PROBE_SETS, make_plan
from curvlab.plasticity import Diagnostic
from curvlab.runs import Run


def analyze(
    run: Run,
    diagnostics: Sequence[str | Diagnostic] | None = None,
    *,
    probe_sets: Sequence[str] = DEFAULT_PROBE_SETS,
    operator: str | None = None,
    steps: Sequence[int] | None = None,
    budget: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> xr.Dataset:
    """Measure diagnostics on the checkpoints of a run; what is stored already is not repeated.

    Parameters
    ----------
    run
        An open run.
    diagnostics
        Names (``"spectrum"``, ``"stability"``) or instances with settings (``Spectrum(order=90)``),
        see :data:`curvlab.DIAGNOSTICS`. By default the cheap ones (performance, ranks, units,
        weights) at every checkpoint, the Hessian's spectrum at up to 16 checkpoints, and the
        Gauss-Newton matrix's at the task ends.
    probe_sets
        ``"current"`` (the task just learnt), ``"next"`` (the next, unseen one), or names. Spectra
        are measured on the first one wherever they are measured, on the others at the start and the
        task ends.
    operator
        The matrix of ``"spectrum"``: ``"hessian"``, ``"gauss_newton"``, ``"fisher"``,
        ``"empirical_fisher"``, ``"gradient_covariance"``, ``"residual"``, or one that another
        package has put in :data:`curvlab.OPERATORS`.
    steps
        Measure everything at these checkpoints, and nothing elsewhere.
    budget
        Seconds that may be spent; what matters most is measured first.
    progress
        Called after each measurement.

    Returns
    -------
    xarray.Dataset
        Variables over ``step`` and ``probe_set``, NaN where nothing was measured, the number of the
        ``task`` as a coordinate, and ``status(step)``: ``"ok"``, or why a checkpoint could not be
        analysed. A repeated call gives the same numbers bit for bit; times are attributes.

    Raises
    ------
    RunError
        If a step or a probe set does not exist.
    UnknownNameError
        If a diagnostic or an operator is unknown.
    OperatorError
        If the order exceeds the number of parameters.
    StorageError
        If a result cannot be written.

    Notes
    -----
    One compilation serves all checkpoints. Start vectors are the same for every checkpoint.
    """
    plan = make_plan(
        run,
        diagnostics,
        probe_sets=probe_sets,
        operator=operator,
        steps=steps,
        budget=budget,
    )
    return collect(plan, execute(plan, progress))
