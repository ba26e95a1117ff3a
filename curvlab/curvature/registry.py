"""Curvature matrices by name, for the analysis of runs and the command line.

Other packages add theirs under the entry-point group ``curvlab.operators``.
"""

from collections.abc import Callable

from curvlab.core.registry import Registry
from curvlab.curvature.fisher import EmpiricalFisher, Fisher
from curvlab.curvature.gauss_newton import GaussNewton
from curvlab.curvature.gradient_covariance import GradientCovariance
from curvlab.curvature.hessian import Hessian
from curvlab.curvature.operator import CurvatureOperator
from curvlab.curvature.problem import Problem
from curvlab.curvature.residual import ResidualCurvature

MakeOperator = Callable[[Problem], CurvatureOperator]

OPERATORS: Registry[MakeOperator] = Registry("operator", "curvlab.operators")
"""Matrices on the parameters that need nothing but a problem."""

OPERATORS.register("empirical_fisher")(EmpiricalFisher)
OPERATORS.register("fisher")(Fisher)
OPERATORS.register("gauss_newton")(GaussNewton)
OPERATORS.register("gradient_covariance")(GradientCovariance)
OPERATORS.register("hessian")(Hessian)
OPERATORS.register("residual")(ResidualCurvature)


def operator_of(name: str, problem: Problem) -> CurvatureOperator:
    """Return the curvature matrix of that name for a problem.

    Raises
    ------
    UnknownNameError
        If there is no such matrix.
    """
    return OPERATORS[name](problem)
