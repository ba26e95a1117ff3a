"""Curvature matrices of a problem, one file each, as operators on flat parameter vectors."""

from curvlab.curvature.gauss_newton import GaussNewton as GaussNewton
from curvlab.curvature.hessian import Hessian as Hessian
from curvlab.curvature.operator import CurvatureOperator as CurvatureOperator
from curvlab.curvature.problem import Problem as Problem
