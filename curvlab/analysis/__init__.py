"""Which diagnostics on which checkpoints: planned, priced, measured, resumed and compared.

The diagnostics themselves are in :mod:`curvlab.plasticity` and, for spectra, in
:mod:`curvlab.analysis.spectrum`. Nothing is printed here.
"""

from curvlab.analysis.analyze import analyze as analyze
from curvlab.analysis.collect import collect as collect
from curvlab.analysis.collect import load_results as load_results
from curvlab.analysis.collect import measure_of as measure_of
from curvlab.analysis.compare import compare as compare
from curvlab.analysis.execute import Outcome as Outcome
from curvlab.analysis.execute import Progress as Progress
from curvlab.analysis.execute import execute as execute
from curvlab.analysis.plan import Measurement as Measurement
from curvlab.analysis.plan import Plan as Plan
from curvlab.analysis.plan import make_plan as make_plan
from curvlab.analysis.plan import parse_budget as parse_budget
from curvlab.analysis.spectrum import OPERATORS as OPERATORS
from curvlab.analysis.spectrum import Spectrum as Spectrum
from curvlab.analysis.stability import Stability as Stability
from curvlab.analysis.stability import StabilityStatistics as StabilityStatistics
from curvlab.analysis.stability import stability as stability
from curvlab.analysis.stability import stability_limit as stability_limit
from curvlab.analysis.summaries import summary_rows as summary_rows
from curvlab.analysis.trajectory import trajectory as trajectory

# The whole table: `spectrum` is registered by the import above.
from curvlab.plasticity.registry import DIAGNOSTICS as DIAGNOSTICS
