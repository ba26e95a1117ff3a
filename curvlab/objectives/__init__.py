"""Per-example losses, registered by name: ``loss(outputs, targets) -> Float[Array, " examples"]``.

The mean over examples is taken by :class:`curvlab.Problem`, never here.
"""

from curvlab.objectives.likelihoods import Categorical as Categorical
from curvlab.objectives.likelihoods import Gaussian as Gaussian
from curvlab.objectives.likelihoods import Likelihood as Likelihood
from curvlab.objectives.likelihoods import likelihood_of as likelihood_of
from curvlab.objectives.perturbation import output_perturbation as output_perturbation
from curvlab.objectives.registry import OBJECTIVES as OBJECTIVES
from curvlab.objectives.registry import build_objective as build_objective
from curvlab.objectives.supervised import accuracy as accuracy
from curvlab.objectives.supervised import cross_entropy as cross_entropy
from curvlab.objectives.supervised import squared_error as squared_error
