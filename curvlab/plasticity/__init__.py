"""Diagnostics of plasticity: what a checkpoint's units, features, weights and outputs are like.

Each is a plain function of a :class:`curvlab.Problem` (networks need not be instrumented) and a
registered diagnostic of a checkpoint. Curvature is in :mod:`curvlab.curvature`; which diagnostic is
measured on which checkpoint is decided in :mod:`curvlab.analysis`.
"""

from curvlab.plasticity.activations import hidden_activations as hidden_activations
from curvlab.plasticity.feature_ranks import Ranks as Ranks
from curvlab.plasticity.feature_ranks import RankStatistics as RankStatistics
from curvlab.plasticity.feature_ranks import ranks as ranks
from curvlab.plasticity.feature_ranks import ranks_of as ranks_of
from curvlab.plasticity.predictions import Performance as Performance
from curvlab.plasticity.predictions import PerformanceDiagnostic as PerformanceDiagnostic
from curvlab.plasticity.predictions import performance as performance
from curvlab.plasticity.registry import DIAGNOSTICS as DIAGNOSTICS
from curvlab.plasticity.registry import Diagnostic as Diagnostic
from curvlab.plasticity.unit_activity import Units as Units
from curvlab.plasticity.unit_activity import UnitStatistics as UnitStatistics
from curvlab.plasticity.unit_activity import units as units
from curvlab.plasticity.weight_norms import Weights as Weights
from curvlab.plasticity.weight_norms import WeightStatistics as WeightStatistics
from curvlab.plasticity.weight_norms import weights as weights
