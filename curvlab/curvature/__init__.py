"""Curvature matrices of a problem, one file each, as operators on flat parameter vectors."""

from curvlab.curvature.cosines import CosineSummary as CosineSummary
from curvlab.curvature.data import Batches as Batches
from curvlab.curvature.drawn_targets import perturb_outputs as perturb_outputs
from curvlab.curvature.fisher import EmpiricalFisher as EmpiricalFisher
from curvlab.curvature.fisher import Fisher as Fisher
from curvlab.curvature.fisher import MonteCarloFisher as MonteCarloFisher
from curvlab.curvature.gauss_newton import GaussNewton as GaussNewton
from curvlab.curvature.gradient_covariance import GradientCovariance as GradientCovariance
from curvlab.curvature.gradient_covariance import GradientSecondMoment as GradientSecondMoment
from curvlab.curvature.gram import GradientGram as GradientGram
from curvlab.curvature.gram import gradient_gram as gradient_gram
from curvlab.curvature.hessian import Hessian as Hessian
from curvlab.curvature.metric import Metric as Metric
from curvlab.curvature.metric import adam_metric as adam_metric
from curvlab.curvature.metric import rmsprop_metric as rmsprop_metric
from curvlab.curvature.metric import weight_norm_metric as weight_norm_metric
from curvlab.curvature.operator import CurvatureOperator as CurvatureOperator
from curvlab.curvature.problem import Problem as Problem
from curvlab.curvature.registry import OPERATORS as OPERATORS
from curvlab.curvature.registry import operator_of as operator_of
from curvlab.curvature.residual import ResidualCurvature as ResidualCurvature
from curvlab.curvature.tangent_kernel import TangentKernel as TangentKernel
from curvlab.curvature.tangent_kernel import tangent_kernel as tangent_kernel
