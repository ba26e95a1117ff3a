"""Spectral measures: what Lanczos quadrature knows of a spectrum, with intervals.

A start vector ``v`` of unit length sees the measure ``F_v(x) = Σ_{λ_i <= x} (v·q_i)²``. ``m``
steps of Lanczos determine its first ``2 m`` moments, and these confine ``F_v(x)`` to a bracket
(:mod:`curvlab.spectral.brackets`). For ``v`` uniform on the sphere ``F_v(x)`` scatters about the
share of eigenvalues ``F(x)`` as a Beta variable. Every interval here is the one on top of the
other, with ``x`` widened by the noise floor of the products.

The distribution function is here; shares, means of functions, densities and storage are in
``shares.py``, ``functionals.py``, ``measure_density.py`` and ``measure_storage.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from curvlab.core.errors import OperatorError
from curvlab.spectral.basis import Tier
from curvlab.spectral.brackets import extremal_sums, tridiagonal_eigh
from curvlab.spectral.cost import Cost
from curvlab.spectral.density import Axis, Density
from curvlab.spectral.estimate import Band, Estimate
from curvlab.spectral.intervals import count_bounds
from curvlab.spectral.lanczos import Tridiagonal

if TYPE_CHECKING:
    import xarray as xr


ROUNDING = 1e-12
"""Slack for sums of quadrature weights."""

FINEST = 600
"""Most grid points at which a measure of several long Lanczos runs is bracketed."""


@dataclass(frozen=True)
class SpectralMeasure:
    """Gauss quadrature of the spectral measures of several start vectors.

    Vectors that broke down early are padded with nodes of weight zero.

    Attributes
    ----------
    nodes, weights
        Ritz values and their weights; each row of weights sums to 1.
    diagonal, offdiagonal
        Recurrence of each vector; the last entry of ``offdiagonal`` is the residual.
    orders
        Lanczos steps of each vector.
    exact
        Whether the Krylov space of a vector was exhausted to rounding: polynomials of every degree
        are then known but for the coupling that was cut (the residual). The distribution function
        is, once there are as many steps as eigenvalues.
    vector_weights
        Share of each vector in the pooled measure: squared norm of the Gaussian it was drawn from,
        which makes the pooled share exactly Beta.
    dim
        Number of eigenvalues.
    noise_floor
        ``η``, in units of an eigenvalue.
    random
        Whether the vectors were drawn at random. If not, brackets are all that is claimed, and they
        are about the measure of the given vectors.
    matvecs
        Operator products spent.
    estimand
        The matrix.
    atoms
        Certified eigenvalues that were deflated: the vectors are random in the complement of their
        eigenvectors, and each stands in the measure with weight ``1 / dim``, exactly.
    coupling
        ``‖A Q - Q Θ‖₂`` of the deflated pairs: no eigenvalue is further than this from one of the
        atoms or of the complement (Weyl), so ``x`` is widened by it. Without a stored basis also
        ``m ε max |θ|``, by which rounding smears out eigenvalues (Greenbaum 1989); with rows in
        half precision the loss of orthogonality takes the place of ``ε``.
    tier
        Where the Lanczos vectors were kept; ``None`` for all eigenvalues of a small matrix.
    orthogonality
        ``max |Q Qᵀ - I|`` of the Lanczos vectors; predicted where they were not kept.
    notes
        What the check of the operator found that belongs beside its spectrum (ReLU kinks).
    cost
        What was spent; neither stored nor compared, since times differ.
    """

    nodes: Float[np.ndarray, "vectors order"]
    weights: Float[np.ndarray, "vectors order"]
    diagonal: Float[np.ndarray, "vectors order"]
    offdiagonal: Float[np.ndarray, "vectors order"]
    orders: Int[np.ndarray, " vectors"]
    exact: Bool[np.ndarray, " vectors"]
    vector_weights: Float[np.ndarray, " vectors"]
    dim: int
    noise_floor: float
    random: bool
    matvecs: int
    estimand: str
    atoms: Float[np.ndarray, " atoms"] = field(default_factory=lambda: np.zeros(0))
    coupling: float = 0.0
    tier: Tier | None = None
    orthogonality: float = 0.0
    notes: tuple[str, ...] = ()
    cost: Cost | None = field(default=None, compare=False)

    @classmethod
    def from_lanczos(
        cls,
        runs: Sequence[Tridiagonal],
        *,
        dim: int,
        noise_floor: float,
        matvecs: int,
        estimand: str,
        atoms: Float[np.ndarray, " atoms"] | None = None,
        coupling: float = 0.0,
        final: bool = True,
    ) -> "SpectralMeasure":
        """Collect Lanczos runs with different start vectors on one operator.

        Runs that will go on are not ``final``: their orthogonality is left out.
        """
        order = max(run.order for run in runs)
        count = len(runs)
        nodes, weights = np.zeros((count, order)), np.zeros((count, order))
        diagonal, offdiagonal = np.zeros((count, order)), np.zeros((count, order))
        for row, run in enumerate(runs):
            values, vectors = run.ritz()
            m = run.order
            nodes[row] = np.pad(values, (0, order - m), mode="edge")
            weights[row, :m] = vectors[0] ** 2 / (vectors[0] ** 2).sum()
            diagonal[row, :m] = run.diagonal
            offdiagonal[row, : m - 1] = run.offdiagonal
            offdiagonal[row, m - 1] = run.residual
        norms = np.array([run.start_norm2 for run in runs])
        # Lanczos without orthogonal rows sees every eigenvalue smeared out.
        smear = max(run.order * run.smear for run in runs) * float(np.abs(nodes).max())
        return cls(
            nodes,
            weights,
            diagonal,
            offdiagonal,
            np.array([run.order for run in runs]),
            np.array(
                [run.breakdown_step is not None and run.tier is not Tier.NONE for run in runs]
            ),
            norms / norms.sum(),
            dim,
            noise_floor,
            all(run.random for run in runs),
            matvecs,
            estimand,
            np.zeros(0) if atoms is None else np.sort(atoms),
            coupling + smear,
            runs[0].tier,
            max(run.orthogonality for run in runs) if final else float("nan"),
        )

    @classmethod
    def from_eigenvalues(
        cls, eigenvalues: Float[Any, " dim"], *, noise_floor: float = 0.0, estimand: str = "matrix"
    ) -> "SpectralMeasure":
        """Hold all eigenvalues of a small matrix, each with weight ``1 / n``: nothing is random.

        Parameters
        ----------
        eigenvalues
            All of them, in any order (``numpy.linalg.eigvalsh(op.to_dense())``).
        noise_floor
            Accuracy of the eigenvalues.
        estimand
            The matrix.
        """
        values = np.sort(np.asarray(eigenvalues, np.float64))[None]
        dim = values.shape[1]
        return cls(
            values,
            np.full((1, dim), 1 / dim),
            values,
            np.zeros((1, dim)),
            np.array([dim]),
            np.array([True]),
            np.ones(1),
            dim,
            noise_floor,
            random=False,
            matvecs=dim,
            estimand=estimand,
        )

    def __str__(self) -> str:
        low, high = self.support
        lines = [
            self.estimand,
            f"  spectral measure: order {int(self.orders.max())}, {self.vectors} start vectors"
            f"{f', {len(self.atoms)} eigenvalues deflated' if len(self.atoms) else ''}",
            f"  Ritz values from {low:.4g} to {high:.4g}, noise floor {self.noise_floor:.1e}",
            *([f"  {self.tier.said}, orthogonal to {self.orthogonality:.0e}"] if self.tier else []),
            *([f"  {self.cost}"] if self.cost else []),
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    @property
    def complete(self) -> bool:
        """Whether it holds every eigenvalue with weight ``1 / n``: no quadrature, no chance."""
        return (
            not self.random
            and bool(self.exact.all())
            and self.nodes.shape == (1, self.dim)
            and bool(np.allclose(self.weights, 1 / self.dim, rtol=1e-9, atol=0))
        )

    @property
    def orthogonal(self) -> bool:
        """Whether the Lanczos vectors were kept orthogonal.

        If not, Ritz values repeat: weights are still right, the number of nodes means nothing.
        """
        return self.tier is not Tier.NONE

    @property
    def vectors(self) -> int:
        """Number of start vectors."""
        return len(self.nodes)

    @property
    def support(self) -> tuple[float, float]:
        """Outermost Ritz values and atoms, moved outwards by the noise floor."""
        known = np.append(self.nodes.ravel(), self.atoms)
        return float(known.min()) - self.blur, float(known.max()) + self.blur

    @property
    def blur(self) -> float:
        """How far an eigenvalue may lie from where the measure has it: ``η`` and the coupling."""
        return self.noise_floor + self.coupling

    @property
    def rest(self) -> int:
        """Number of eigenvalues that were not deflated."""
        return self.dim - len(self.atoms)

    def atoms_upto(self, points: Any, side: int = 0) -> Int[np.ndarray, " points"]:
        """Count the atoms ``<= x``; for a bound (side -1, 1) those that may or must be there."""
        moved = np.asarray(points, np.float64) + side * self.blur
        return np.searchsorted(self.atoms, moved, side="right")

    def overall(self, share: Any, atoms: Any) -> Any:
        """Turn a share of the complement and a number of atoms into a share of all eigenvalues."""
        return (self.rest * share + atoms) / self.dim

    # -- distribution function -------------------------------------------------------------------

    def bracket(
        self, x: Float[Any, " points"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Bound the pooled ``Σ_l ω_l F_l(x)`` of the start vectors by quadrature alone.

        See :mod:`curvlab.spectral.brackets`. Points are moved outwards by the noise floor: an
        argument about the *count* of eigenvalues (Weyl), not about the measure of one vector. Cost:
        two tridiagonal eigenproblems for each point and vector.

        Raises
        ------
        OperatorError
            If a point is NaN.
        """
        points = np.atleast_1d(np.asarray(x, np.float64))
        if np.isnan(points).any():
            raise OperatorError("The measure was asked at NaN. Pass eigenvalues, or ±infinity.")
        reach = 2 * float(np.abs(self.nodes).max() + np.abs(self.offdiagonal).max()) + 1e-300
        outside = reach + self.blur
        points = np.clip(points, -outside, outside)  # nothing changes out there
        low, high = np.zeros(len(points)), np.zeros(len(points))
        for row, share in enumerate(self.vector_weights):
            low += share * self._one_sided(row, points, side=-1)
            high += share * self._one_sided(row, points, side=1)
        # Weights sum to one only up to rounding; those of given vectors are all that is claimed,
        # so the relative noise of the products counts for them.
        slack = ROUNDING
        if not (self.random or self.complete):
            slack += 4 * self.noise_floor / (reach / 2)
        return np.clip(low - slack, 0, 1), np.clip(np.maximum(low, high) + slack, 0, 1)

    def _one_sided(
        self, row: int, points: Float[np.ndarray, " points"], *, side: int
    ) -> Float[np.ndarray, " points"]:
        """Bound the measure of one vector from below (side -1) or above (side 1)."""
        m = int(self.orders[row])
        moved = points + side * self.blur
        if self.exact[row] and (m == self.rest or self.offdiagonal[row, m - 1] == 0):
            return _step_cdf(self.nodes[row, :m], self.weights[row, :m], moved)
        # Also for a Krylov space that is exhausted to rounding: the coupling that was cut depends
        # on the vector, which is therefore not random beside the matrix without it.
        return extremal_sums(self.diagonal[row, :m], self.offdiagonal[row, :m], moved)[side > 0]

    def gauss_cdf(self, points: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """Return the pooled share of the start vectors' quadrature weights at nodes ``<= x``."""
        flat = self.nodes.ravel()
        order = np.argsort(flat, kind="stable")
        pooled = (self.vector_weights[:, None] * self.weights).ravel()[order]
        cumulative = np.concatenate([[0.0], np.cumsum(pooled)])
        return np.clip(cumulative[np.searchsorted(flat[order], points, side="right")], 0, 1)

    def cdf(self, x: float, *, level: float = 0.95) -> Estimate:
        """Estimate the share of eigenvalues ``<= x``, ``F(x) = #{λ_i <= x} / n``.

        Parameters
        ----------
        x
            Point on the eigenvalue axis.
        level
            Coverage of the interval.

        Returns
        -------
        Estimate by Beta inversion on top of the quadrature bracket; valid with one vector.
        """
        from curvlab.spectral.shares import share_between

        return share_between(self, -np.inf, float(x), level, f"share of eigenvalues <= {x:g}")

    def mass(self, a: float, b: float, *, level: float = 0.95) -> Estimate:
        """Estimate the share of eigenvalues in ``(a, b]``; intervals as for :meth:`cdf`.

        Raises
        ------
        OperatorError
            If ``a > b``.
        """
        if a > b:
            raise OperatorError(f"mass({a}, {b}) has its ends reversed. Pass a <= b.")
        from curvlab.spectral.shares import share_between

        return share_between(
            self, float(a), float(b), level, f"share of eigenvalues in ({a:g}, {b:g}]"
        )

    def negative_fraction(self, floor: float, *, level: float = 0.95) -> Estimate:
        """Estimate ``F(-floor)``, the share of eigenvalues clearly below zero.

        With most of a spectrum at zero the *count* below zero is not measurable; a floor well above
        the noise floor separates curvature from the null cluster.

        Raises
        ------
        OperatorError
            If ``floor`` is negative.
        """
        if floor < 0:
            raise OperatorError(f"negative_fraction(floor={floor}) needs a floor >= 0.")
        return self.cdf(-floor, level=level)

    def cdf_band(self, grid: Float[Any, " points"], *, level: float = 0.95) -> Band:
        """Bound ``F`` at all points at once.

        Beta inversion at ``(1 - level) / (2 n)`` on each side covers all ``n`` order statistics
        (union bound), on top of the brackets, with ``x`` widened by the noise floor.

        Parameters
        ----------
        grid
            Points on the eigenvalue axis, ascending.
        level
            Probability that the band contains ``F`` everywhere.
        """
        grid = np.asarray(grid, np.float64)
        return self.band_from(grid, self.bracket(grid), level=level)

    def band_from(
        self,
        grid: Float[np.ndarray, " points"],
        bracket: tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]],
        *,
        level: float,
    ) -> Band:
        """Return :meth:`cdf_band` from brackets that were computed already."""
        low, high = bracket
        value = np.clip(self.gauss_cdf(grid), low, high)
        if self.random:
            tail = (1 - level) / (2 * self.rest)
            low, high = count_bounds(low, high, dim=self.rest, vectors=self.vectors, tail=tail)
        low, value, high = (
            self.overall(share, self.atoms_upto(grid, side))
            for share, side in ((low, -1), (value, 0), (high, 1))
        )
        # F is monotone, so its bounds may be made so.
        low = np.maximum.accumulate(np.minimum(low, value))
        high = np.minimum.accumulate(np.maximum(high, value)[::-1])[::-1]
        return Band(grid, value, low, high, level, "beta" if self.random else self.certainty)

    # -- linear functionals ----------------------------------------------------------------------

    def moment(self, k: int, *, level: float = 0.95) -> Estimate:
        """Estimate ``(1/n) Σ λ_i^k``; for ``k <= 2 m - 1`` the quadrature is exact.

        Raises
        ------
        OperatorError
            If the order of the quadrature does not reach ``k``.
        """
        from curvlab.spectral.functionals import moment

        return moment(self, k, level=level)

    def expectation(
        self, f: Callable[[Any], Any], *, level: float = 0.95, name: str = "f"
    ) -> Estimate:
        """Estimate ``(1/n) Σ f(λ_i)``.

        The bracket is ``∫ (U - L) |df|`` about the quadrature value, summed over the start vectors.
        The interval is the extreme of ``∫ f dF`` over all distribution functions in the
        simultaneous band, *provided* that no eigenvalue lies beyond the outermost Ritz values
        widened by their residuals (which no quadrature can certify; use an order of 10 or more
        where ``f`` grows fast): honest with few vectors, and wide. With 8 vectors or more it is
        intersected with the interval of quadratic forms
        (:func:`curvlab.spectral.intervals.form_margin`), each at half the error probability.

        Parameters
        ----------
        f
            Function of eigenvalues, vectorised and finite. Its variation is sampled at 16 points
            between neighbouring grid points; features narrower than that are not seen. For an
            indicator use :meth:`mass`.
        level
            Coverage of the interval.
        name
            How to call ``f`` in reports.

        Raises
        ------
        OperatorError
            If ``f`` is not finite on the support.
        """
        from curvlab.spectral.functionals import expectation

        return expectation(self, f, level=level, name=name)

    @cached_property
    def grid(self) -> Float[np.ndarray, " points"]:
        """Points that resolve the measure: all nodes and the middles between neighbours.

        Where the distribution jumps for certain (atoms, exhausted Krylov spaces) there is a point
        on either side. The ends are the outermost Ritz values, widened by their residual bounds and
        by the noise floor.
        """
        nodes = np.unique(self.nodes)
        if not self.exact.all() and len(nodes) > FINEST // 2:  # coarser is wider, never wrong
            nodes = nodes[np.linspace(0, len(nodes) - 1, FINEST // 2).astype(int)]
        tiny = 1e-14 * float(np.abs(self.support).max()) + 1e-300
        jumps = [(self.atoms, self.blur)]
        for row in np.flatnonzero(self.exact):
            cut = float(self.offdiagonal[row, self.orders[row] - 1])
            jumps.append((self.nodes[row, : self.orders[row]], self.blur + cut))
        sides = [at + sign * (width + tiny) for at, width in jumps for sign in (-1, 1) if len(at)]
        reach = tiny + self.blur + max(_reach(self, row) for row in range(self.vectors))
        ends = [nodes[0] - reach], [nodes[-1] + reach]
        middles = (nodes[:-1] + nodes[1:]) / 2
        return np.unique(np.concatenate([ends[0], nodes, middles, ends[1], *sides]))

    @cached_property
    def _grid_bracket(
        self,
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        return self.bracket(self.grid)

    @cached_property
    def grid_bracket(
        self,
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Bounds at :attr:`grid` of what the start vectors and the atoms together see."""
        low, high = self._grid_bracket
        return (
            self.overall(low, self.atoms_upto(self.grid, -1)),
            self.overall(high, self.atoms_upto(self.grid, 1)),
        )

    def grid_band(self, *, level: float = 0.95) -> Band:
        """Return :meth:`cdf_band` on :attr:`grid`; the brackets are computed once."""
        return self.band_from(self.grid, self._grid_bracket, level=level)

    @property
    def certainty(self) -> str:
        """How an interval arises in which nothing is random."""
        return "exact" if self.complete else "bracket"

    # -- densities ---------------------------------------------------------------------------------

    def density(
        self,
        grid: Float[Any, " points"],
        *,
        bandwidth: float,
        axis: Axis | None = None,
        level: float = 0.95,
    ) -> Density:
        """Smooth the measure with a Gaussian kernel on the given axis.

        ``p(u) = ∫ N(u; u(λ), bandwidth²) dF(λ)`` per unit of the axis coordinate ``u``: the
        Jacobian of a transformed axis is included. The band follows from :meth:`cdf_band` and holds
        for all points at once.

        Parameters
        ----------
        grid
            Eigenvalues at which the density is wanted, ascending.
        bandwidth
            Standard deviation of the kernel in units of the axis coordinate.
        axis
            Coordinate in which to smooth; linear by default.
        level
            Simultaneous coverage of the band.
        """
        from curvlab.spectral.measure_density import smoothed

        return smoothed(self, grid, bandwidth=bandwidth, axis=axis, level=level)

    def ritz_histogram(self, grid: Float[Any, " points"], *, bandwidth: float) -> Density:
        """Smooth the Ritz values with *equal* weights, as older figures of Hessian spectra did.

        This is not a density of eigenvalues: it depends on the order, and an outlier among millions
        of eigenvalues counts as much as the bulk. It is here to redraw published figures.

        Raises
        ------
        OperatorError
            If the Lanczos vectors were not kept orthogonal, or eigenvalues were deflated.
        """
        from curvlab.spectral.measure_density import ritz_histogram

        return ritz_histogram(self, grid, bandwidth=bandwidth)

    # -- storage -----------------------------------------------------------------------------------

    def to_dataset(self) -> "xr.Dataset":
        """Return everything as an ``xarray.Dataset`` over ``vector`` and ``node``."""
        from curvlab.spectral.measure_storage import to_dataset

        return to_dataset(self)

    @classmethod
    def from_dataset(cls, dataset: "xr.Dataset") -> "SpectralMeasure":
        """Rebuild a measure from :meth:`to_dataset`."""
        from curvlab.spectral.measure_storage import from_dataset

        return from_dataset(dataset)


def _step_cdf(
    nodes: Float[np.ndarray, " order"], weights: Float[np.ndarray, " order"], points: Any
) -> Float[np.ndarray, " points"]:
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    return cumulative[np.searchsorted(nodes, points, side="right")]


def _reach(measure: SpectralMeasure, row: int) -> float:
    """How far beyond an outermost Ritz value the eigenvalue may lie that it stands for."""
    m = int(measure.orders[row])
    residual = abs(float(measure.offdiagonal[row, m - 1]))
    if measure.exact[row]:
        return residual
    _, vectors = tridiagonal_eigh(measure.diagonal[row, :m], measure.offdiagonal[row, : m - 1])
    return residual * float(np.abs(vectors[-1, [0, -1]]).max())
