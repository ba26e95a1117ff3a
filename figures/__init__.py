"""The figures of the paper, drawn from stored results and metrics: ``python -m figures list``.

Nothing here trains or measures; one file per figure. How spectra and curves are drawn in general is
in :mod:`curvlab.plots`.
"""
