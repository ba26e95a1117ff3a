"""Training loops that leave checkpoints behind, run as `python -m agents`.

Nothing in `curvlab` imports this package. It is not part of the wheel, because other distributions
install a top-level `agents` too; `PROJECT` is how the command line recognises its own.
"""

PROJECT = "curvlab"
