"""Run directories: checkpoints, probe sets, metrics, results, and studies made of runs.

Everything on disk is written and read here. What is measured on a checkpoint, and how a network is
trained, is the matter of other packages.
"""

from curvlab.runs.checkpoints import Checkpoint as Checkpoint
from curvlab.runs.manifests import Finding as Finding
from curvlab.runs.optimisers import OPTIMISERS as OPTIMISERS
from curvlab.runs.optimisers import build_optimiser as build_optimiser
from curvlab.runs.probe_sets import ProbeSet as ProbeSet
from curvlab.runs.results import ResultFile as ResultFile
from curvlab.runs.run import Run as Run
from curvlab.runs.run import find_runs as find_runs
from curvlab.runs.run import open_run as open_run
from curvlab.runs.run import open_runs as open_runs
from curvlab.runs.save import save_checkpoint as save_checkpoint
from curvlab.runs.writer import RunWriter as RunWriter
