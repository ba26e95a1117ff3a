"""Curvature of the loss landscape and plasticity diagnostics on saved checkpoints.

Everything a user calls is importable from here. The names are imported at first use, so that
``import curvlab`` and ``curvlab --help`` stay fast; :data:`PUBLIC_NAMES` says where each one lives.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# No name here may equal a subpackage's: after its first import the module would take its place.
PUBLIC_NAMES: dict[str, str] = {
    "Spectrum": "curvlab.analysis",
    "Stability": "curvlab.analysis",
    "StabilityStatistics": "curvlab.analysis",
    "analyze": "curvlab.analysis",
    "compare": "curvlab.analysis",
    "load_results": "curvlab.analysis",
    "measure_of": "curvlab.analysis",
    "stability": "curvlab.analysis",
    "stability_limit": "curvlab.analysis",
    "trajectory": "curvlab.analysis",
    "write_report": "curvlab.report",
    "CheckpointError": "curvlab.core.errors",
    "CurvlabError": "curvlab.core.errors",
    "OperatorError": "curvlab.core.errors",
    "ProblemError": "curvlab.core.errors",
    "RunError": "curvlab.core.errors",
    "StorageError": "curvlab.core.errors",
    "UnknownNameError": "curvlab.core.errors",
    "Spec": "curvlab.core.specs",
    "Batches": "curvlab.curvature",
    "CosineSummary": "curvlab.curvature",
    "CurvatureOperator": "curvlab.curvature",
    "DataCurve": "curvlab.curvature",
    "EmpiricalFisher": "curvlab.curvature",
    "Fisher": "curvlab.curvature",
    "GaussNewton": "curvlab.curvature",
    "GradientCovariance": "curvlab.curvature",
    "GradientSecondMoment": "curvlab.curvature",
    "GradientGram": "curvlab.curvature",
    "gradient_gram": "curvlab.curvature",
    "Hessian": "curvlab.curvature",
    "LossPlane": "curvlab.curvature",
    "LossSlice": "curvlab.curvature",
    "Metric": "curvlab.curvature",
    "MonteCarloFisher": "curvlab.curvature",
    "OPERATORS": "curvlab.curvature",
    "Problem": "curvlab.curvature",
    "ResidualCurvature": "curvlab.curvature",
    "TangentKernel": "curvlab.curvature",
    "adam_metric": "curvlab.curvature",
    "loss_along": "curvlab.curvature",
    "loss_plane": "curvlab.curvature",
    "data_curve": "curvlab.curvature",
    "perturb_outputs": "curvlab.curvature",
    "population_form": "curvlab.curvature",
    "population_trace": "curvlab.curvature",
    "rmsprop_metric": "curvlab.curvature",
    "tangent_kernel": "curvlab.curvature",
    "weight_norm_metric": "curvlab.curvature",
    "CNN": "curvlab.networks",
    "AtariNetwork": "curvlab.networks",
    "ResNet": "curvlab.networks",
    "initialise": "curvlab.networks",
    "MLP": "curvlab.networks",
    "NETWORKS": "curvlab.networks",
    "Predict": "curvlab.networks",
    "build_network": "curvlab.networks",
    "Categorical": "curvlab.objectives",
    "Gaussian": "curvlab.objectives",
    "Likelihood": "curvlab.objectives",
    "OBJECTIVES": "curvlab.objectives",
    "accuracy": "curvlab.objectives",
    "cross_entropy": "curvlab.objectives",
    "output_perturbation": "curvlab.objectives",
    "squared_error": "curvlab.objectives",
    "DIAGNOSTICS": "curvlab.analysis",
    "Diagnostic": "curvlab.plasticity",
    "hidden_activations": "curvlab.plasticity",
    "performance": "curvlab.plasticity",
    "ranks": "curvlab.plasticity",
    "units": "curvlab.plasticity",
    "weights": "curvlab.plasticity",
    "Checkpoint": "curvlab.runs",
    "OPTIMISERS": "curvlab.runs",
    "ProbeSet": "curvlab.runs",
    "Run": "curvlab.runs",
    "RunWriter": "curvlab.runs",
    "build_optimiser": "curvlab.runs",
    "find_runs": "curvlab.runs",
    "open_run": "curvlab.runs",
    "open_runs": "curvlab.runs",
    "save_checkpoint": "curvlab.runs",
    "Axis": "curvlab.spectral",
    "Band": "curvlab.spectral",
    "Cost": "curvlab.spectral",
    "Dense": "curvlab.spectral",
    "Density": "curvlab.spectral",
    "Diagonal": "curvlab.spectral",
    "DiagonalEstimate": "curvlab.spectral",
    "EigenpairMatching": "curvlab.spectral",
    "Eigenpairs": "curvlab.spectral",
    "Estimate": "curvlab.spectral",
    "FunctionOperator": "curvlab.spectral",
    "LinearAxis": "curvlab.spectral",
    "Memory": "curvlab.spectral",
    "Outliers": "curvlab.spectral",
    "PrincipalAngles": "curvlab.spectral",
    "SignedLogAxis": "curvlab.spectral",
    "SpectralDistance": "curvlab.spectral",
    "SpectralMeasure": "curvlab.spectral",
    "SpectralRanks": "curvlab.spectral",
    "SymmetricOperator": "curvlab.spectral",
    "Tier": "curvlab.spectral",
    "Tridiagonal": "curvlab.spectral",
    "condition_number": "curvlab.spectral",
    "diagonal": "curvlab.spectral",
    "effective_dimension": "curvlab.spectral",
    "Progress": "curvlab.spectral",
    "progress_bar": "curvlab.spectral",
    "eigenpairs": "curvlab.spectral",
    "expectation_trace": "curvlab.spectral",
    "frobenius_norm": "curvlab.spectral",
    "lanczos": "curvlab.spectral",
    "log_determinant": "curvlab.spectral",
    "match_eigenpairs": "curvlab.spectral",
    "mean_error": "curvlab.spectral",
    "negative_mass": "curvlab.spectral",
    "outliers": "curvlab.spectral",
    "principal_angles": "curvlab.spectral",
    "rank_curve": "curvlab.spectral",
    "Soundness": "curvlab.spectral",
    "check": "curvlab.spectral",
    "slq": "curvlab.spectral",
    "spectral_ranks": "curvlab.spectral",
    "trace": "curvlab.spectral",
    "wasserstein": "curvlab.spectral",
    "xnystrace": "curvlab.spectral",
    "xtrace": "curvlab.spectral",
}

__all__ = ["PUBLIC_NAMES", "__version__", *PUBLIC_NAMES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from curvlab.analysis import DIAGNOSTICS as DIAGNOSTICS
    from curvlab.analysis import Spectrum as Spectrum
    from curvlab.analysis import Stability as Stability
    from curvlab.analysis import StabilityStatistics as StabilityStatistics
    from curvlab.analysis import analyze as analyze
    from curvlab.analysis import compare as compare
    from curvlab.analysis import load_results as load_results
    from curvlab.analysis import measure_of as measure_of
    from curvlab.analysis import stability as stability
    from curvlab.analysis import stability_limit as stability_limit
    from curvlab.analysis import trajectory as trajectory
    from curvlab.core.errors import CheckpointError as CheckpointError
    from curvlab.core.errors import CurvlabError as CurvlabError
    from curvlab.core.errors import OperatorError as OperatorError
    from curvlab.core.errors import ProblemError as ProblemError
    from curvlab.core.errors import RunError as RunError
    from curvlab.core.errors import StorageError as StorageError
    from curvlab.core.errors import UnknownNameError as UnknownNameError
    from curvlab.core.specs import Spec as Spec
    from curvlab.curvature import OPERATORS as OPERATORS
    from curvlab.curvature import Batches as Batches
    from curvlab.curvature import CosineSummary as CosineSummary
    from curvlab.curvature import CurvatureOperator as CurvatureOperator
    from curvlab.curvature import DataCurve as DataCurve
    from curvlab.curvature import EmpiricalFisher as EmpiricalFisher
    from curvlab.curvature import Fisher as Fisher
    from curvlab.curvature import GaussNewton as GaussNewton
    from curvlab.curvature import GradientCovariance as GradientCovariance
    from curvlab.curvature import GradientGram as GradientGram
    from curvlab.curvature import GradientSecondMoment as GradientSecondMoment
    from curvlab.curvature import Hessian as Hessian
    from curvlab.curvature import LossPlane as LossPlane
    from curvlab.curvature import LossSlice as LossSlice
    from curvlab.curvature import Metric as Metric
    from curvlab.curvature import MonteCarloFisher as MonteCarloFisher
    from curvlab.curvature import Problem as Problem
    from curvlab.curvature import ResidualCurvature as ResidualCurvature
    from curvlab.curvature import TangentKernel as TangentKernel
    from curvlab.curvature import adam_metric as adam_metric
    from curvlab.curvature import data_curve as data_curve
    from curvlab.curvature import gradient_gram as gradient_gram
    from curvlab.curvature import loss_along as loss_along
    from curvlab.curvature import loss_plane as loss_plane
    from curvlab.curvature import perturb_outputs as perturb_outputs
    from curvlab.curvature import population_form as population_form
    from curvlab.curvature import population_trace as population_trace
    from curvlab.curvature import rmsprop_metric as rmsprop_metric
    from curvlab.curvature import tangent_kernel as tangent_kernel
    from curvlab.curvature import weight_norm_metric as weight_norm_metric
    from curvlab.networks import CNN as CNN
    from curvlab.networks import MLP as MLP
    from curvlab.networks import NETWORKS as NETWORKS
    from curvlab.networks import AtariNetwork as AtariNetwork
    from curvlab.networks import Predict as Predict
    from curvlab.networks import ResNet as ResNet
    from curvlab.networks import build_network as build_network
    from curvlab.networks import initialise as initialise
    from curvlab.objectives import OBJECTIVES as OBJECTIVES
    from curvlab.objectives import Categorical as Categorical
    from curvlab.objectives import Gaussian as Gaussian
    from curvlab.objectives import Likelihood as Likelihood
    from curvlab.objectives import accuracy as accuracy
    from curvlab.objectives import cross_entropy as cross_entropy
    from curvlab.objectives import output_perturbation as output_perturbation
    from curvlab.objectives import squared_error as squared_error
    from curvlab.plasticity import Diagnostic as Diagnostic
    from curvlab.plasticity import hidden_activations as hidden_activations
    from curvlab.plasticity import performance as performance
    from curvlab.plasticity import ranks as ranks
    from curvlab.plasticity import units as units
    from curvlab.plasticity import weights as weights
    from curvlab.report import write_report as write_report
    from curvlab.runs import OPTIMISERS as OPTIMISERS
    from curvlab.runs import Checkpoint as Checkpoint
    from curvlab.runs import ProbeSet as ProbeSet
    from curvlab.runs import Run as Run
    from curvlab.runs import RunWriter as RunWriter
    from curvlab.runs import build_optimiser as build_optimiser
    from curvlab.runs import find_runs as find_runs
    from curvlab.runs import open_run as open_run
    from curvlab.runs import open_runs as open_runs
    from curvlab.runs import save_checkpoint as save_checkpoint
    from curvlab.spectral import Axis as Axis
    from curvlab.spectral import Band as Band
    from curvlab.spectral import Cost as Cost
    from curvlab.spectral import Dense as Dense
    from curvlab.spectral import Density as Density
    from curvlab.spectral import Diagonal as Diagonal
    from curvlab.spectral import DiagonalEstimate as DiagonalEstimate
    from curvlab.spectral import EigenpairMatching as EigenpairMatching
    from curvlab.spectral import Eigenpairs as Eigenpairs
    from curvlab.spectral import Estimate as Estimate
    from curvlab.spectral import FunctionOperator as FunctionOperator
    from curvlab.spectral import LinearAxis as LinearAxis
    from curvlab.spectral import Memory as Memory
    from curvlab.spectral import Outliers as Outliers
    from curvlab.spectral import PrincipalAngles as PrincipalAngles
    from curvlab.spectral import Progress as Progress
    from curvlab.spectral import SignedLogAxis as SignedLogAxis
    from curvlab.spectral import Soundness as Soundness
    from curvlab.spectral import SpectralDistance as SpectralDistance
    from curvlab.spectral import SpectralMeasure as SpectralMeasure
    from curvlab.spectral import SpectralRanks as SpectralRanks
    from curvlab.spectral import SymmetricOperator as SymmetricOperator
    from curvlab.spectral import Tier as Tier
    from curvlab.spectral import Tridiagonal as Tridiagonal
    from curvlab.spectral import check as check
    from curvlab.spectral import condition_number as condition_number
    from curvlab.spectral import diagonal as diagonal
    from curvlab.spectral import effective_dimension as effective_dimension
    from curvlab.spectral import eigenpairs as eigenpairs
    from curvlab.spectral import expectation_trace as expectation_trace
    from curvlab.spectral import frobenius_norm as frobenius_norm
    from curvlab.spectral import lanczos as lanczos
    from curvlab.spectral import log_determinant as log_determinant
    from curvlab.spectral import match_eigenpairs as match_eigenpairs
    from curvlab.spectral import mean_error as mean_error
    from curvlab.spectral import negative_mass as negative_mass
    from curvlab.spectral import outliers as outliers
    from curvlab.spectral import principal_angles as principal_angles
    from curvlab.spectral import progress_bar as progress_bar
    from curvlab.spectral import rank_curve as rank_curve
    from curvlab.spectral import slq as slq
    from curvlab.spectral import spectral_ranks as spectral_ranks
    from curvlab.spectral import trace as trace
    from curvlab.spectral import wasserstein as wasserstein
    from curvlab.spectral import xnystrace as xnystrace
    from curvlab.spectral import xtrace as xtrace


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in PUBLIC_NAMES:
        raise AttributeError(f"module 'curvlab' has no attribute {name!r}")
    value = getattr(import_module(PUBLIC_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC_NAMES})
