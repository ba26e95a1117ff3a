"""One self-contained page about a run: what was trained, what was measured, and where it came from.

Everything is read from stored results; nothing is measured here. Needs the extra ``figures``.
"""

from curvlab.report.page import render_report as render_report
from curvlab.report.page import write_report as write_report
