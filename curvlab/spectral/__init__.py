"""Spectra of symmetric operators: pure linear algebra that knows nothing of networks."""

from curvlab.spectral.density import Density as Density
from curvlab.spectral.density import LinearAxis as LinearAxis
from curvlab.spectral.density import SignedLogAxis as SignedLogAxis
from curvlab.spectral.eigenpairs import Eigenpairs as Eigenpairs
from curvlab.spectral.eigenpairs import eigenpairs as eigenpairs
from curvlab.spectral.estimate import Band as Band
from curvlab.spectral.estimate import Estimate as Estimate
from curvlab.spectral.explicit import Dense as Dense
from curvlab.spectral.explicit import Diagonal as Diagonal
from curvlab.spectral.explicit import FunctionOperator as FunctionOperator
from curvlab.spectral.lanczos import Tridiagonal as Tridiagonal
from curvlab.spectral.lanczos import lanczos as lanczos
from curvlab.spectral.measure import SpectralMeasure as SpectralMeasure
from curvlab.spectral.memory import Memory as Memory
from curvlab.spectral.operator import SymmetricOperator as SymmetricOperator
from curvlab.spectral.slq import slq as slq
from curvlab.spectral.trace import trace as trace
