"""Curvature matrices by name, for the analysis of runs and the command line."""

from curvlab.core.errors import UnknownNameError
from curvlab.curvature.fisher import EmpiricalFisher, Fisher
from curvlab.curvature.gauss_newton import GaussNewton
from curvlab.curvature.gradient_covariance import GradientCovariance
from curvlab.curvature.hessian import Hessian
from curvlab.curvature.operator import CurvatureOperator
from curvlab.curvature.problem import Problem
from curvlab.curvature.residual import ResidualCurvature

OPERATORS: dict[str, type[CurvatureOperator]] = {
    "empirical_fisher": EmpiricalFisher,
    "fisher": Fisher,
    "gauss_newton": GaussNewton,
    "gradient_covariance": GradientCovariance,
    "hessian": Hessian,
    "residual": ResidualCurvature,
}
"""Matrices on the parameters that need nothing but a problem."""


def operator_of(name: str, problem: Problem) -> CurvatureOperator:
    """Return the curvature matrix of that name for a problem.

    Raises
    ------
    UnknownNameError
        If there is no such matrix.
    """
    if name not in OPERATORS:
        raise UnknownNameError("operator", name, OPERATORS)
    make: type[CurvatureOperator] = OPERATORS[name]
    return make(problem)
