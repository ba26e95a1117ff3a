"""A process that analyses the run given on its command line, for tests that kill it."""

import sys

from curvlab.analysis import Spectrum, analyze
from curvlab.runs import open_run

CHOSEN = ["performance", "units", "weights", Spectrum(order=6, largest=1, smallest=1)]

if __name__ == "__main__":
    analyze(open_run(sys.argv[1]), CHOSEN, probe_sets=["current"], steps=[0, 1, 20, 40])
