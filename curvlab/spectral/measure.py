"""Spectral measures: what Lanczos quadrature knows of a spectrum, with intervals.

A start vector ``v`` of unit length sees the measure ``F_v(x) = Σ_{λ_i <= x} (v·q_i)²``. ``m``
steps of Lanczos determine its first ``2 m`` moments, and these confine ``F_v(x)`` to a bracket
(:mod:`curvlab.spectral.brackets`). For ``v`` uniform on the sphere ``F_v(x)`` scatters about the
share of eigenvalues ``F(x)`` as a Beta variable. Every interval here is the one on top of the
other, with ``x`` widened by the noise floor of the products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from curvlab.core.errors import OperatorError
from curvlab.spectral.brackets import extremal_sums, tridiagonal_eigh
from curvlab.spectral.density import Axis, Density, LinearAxis, kernel_density, smooth
from curvlab.spectral.estimate import Band, Estimate
from curvlab.spectral.intervals import count_bounds
from curvlab.spectral.lanczos import Tridiagonal

if TYPE_CHECKING:
    import xarray as xr


ROUNDING = 1e-12
"""Slack for sums of quadrature weights."""

FINEST = 600
"""Most cells on which the band of a density is evaluated; with fewer it is valid but wider."""

SUBDIVISIONS = 16
"""Samples of a function inside each cell of the grid."""


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
        Whether the Krylov space of a vector was exhausted, so that its measure is known exactly but
        for the coupling that was cut (the residual).
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
        atoms or of the complement (Weyl), so ``x`` is widened by it.
    orthogonal
        Whether the Lanczos vectors were kept orthogonal. If not, Ritz values repeat: the weights
        are still right, the number of nodes means nothing.
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
    orthogonal: bool = True

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
    ) -> "SpectralMeasure":
        """Collect Lanczos runs with different start vectors on one operator."""
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
        return cls(
            nodes,
            weights,
            diagonal,
            offdiagonal,
            np.array([run.order for run in runs]),
            np.array([run.breakdown_step is not None for run in runs]),
            norms / norms.sum(),
            dim,
            noise_floor,
            all(run.random for run in runs),
            matvecs,
            estimand,
            np.zeros(0) if atoms is None else np.sort(atoms),
            coupling,
        )

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

    def _atoms_upto(self, points: Any, side: int = 0) -> Int[np.ndarray, " points"]:
        """Count the atoms ``<= x``; for a bound (side -1, 1) those that may or must be there."""
        moved = np.asarray(points, np.float64) + side * self.blur
        return np.searchsorted(self.atoms, moved, side="right")

    def _overall(self, share: Any, atoms: Any) -> Any:
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
        slack = ROUNDING if self.random else ROUNDING + 4 * self.noise_floor / (reach / 2)
        return np.clip(low - slack, 0, 1), np.clip(np.maximum(low, high) + slack, 0, 1)

    def _one_sided(
        self, row: int, points: Float[np.ndarray, " points"], *, side: int
    ) -> Float[np.ndarray, " points"]:
        """Bound the measure of one vector from below (side -1) or above (side 1)."""
        m = int(self.orders[row])
        if self.exact[row]:
            # Exact for the matrix without the coupling that was cut, which moves no eigenvalue
            # further than its norm.
            moved = points + side * (self.blur + self.offdiagonal[row, m - 1])
            return _step_cdf(self.nodes[row, :m], self.weights[row, :m], moved)
        moved = points + side * self.blur
        return extremal_sums(self.diagonal[row, :m], self.offdiagonal[row, :m], moved)[side > 0]

    def _gauss_cdf(self, points: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
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
        points = np.array([float(x)])
        low, high = self.bracket(points)
        value = np.clip(self._gauss_cdf(points), low, high)
        spread = [
            float(_step_cdf(n, w, points)[0]) for n, w in zip(self.nodes, self.weights, strict=True)
        ]
        counts = tuple(int(self._atoms_upto(points, side)[0]) for side in (-1, 0, 1))
        return self._share(
            value[0], low[0], high[0], counts, spread, level, f"share of eigenvalues <= {x:g}"
        )

    def mass(self, a: float, b: float, *, level: float = 0.95) -> Estimate:
        """Estimate the share of eigenvalues in ``(a, b]``; intervals as for :meth:`cdf`.

        Raises
        ------
        OperatorError
            If ``a > b``.
        """
        if a > b:
            raise OperatorError(f"mass({a}, {b}) has its ends reversed. Pass a <= b.")
        points = np.array([float(a), float(b)])
        lows, highs = self.bracket(points)
        low, high = max(0.0, lows[1] - highs[0]), highs[1] - lows[0]
        cdf = self._gauss_cdf(points)
        spread = [
            float(np.diff(_step_cdf(n, w, points))[0])
            for n, w in zip(self.nodes, self.weights, strict=True)
        ]
        value = float(np.clip(cdf[1] - cdf[0], low, high))
        lows, middles, highs = (self._atoms_upto(points, side).tolist() for side in (-1, 0, 1))
        counts = (max(0, lows[1] - highs[0]), middles[1] - middles[0], highs[1] - lows[0])
        return self._share(
            value, low, high, counts, spread, level, f"share of eigenvalues in ({a:g}, {b:g}]"
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

    def _share(
        self,
        value: float,
        low: float,
        high: float,
        atoms: tuple[int, ...],
        spread: list[float],
        level: float,
        what: str,
    ) -> Estimate:
        if self.random:
            bounds = count_bounds(
                np.array([low]),
                np.array([high]),
                dim=self.rest,
                vectors=self.vectors,
                tail=(1 - level) / 2,
            )
            interval, method = (float(bounds[0][0]), float(bounds[1][0])), "beta"
        else:
            interval, method = (float(low), float(high)), "bracket"
        shares = (interval[0], low, value, high, interval[1])
        known = (atoms[0], atoms[0], atoms[1], atoms[2], atoms[2])
        ends = [float(self._overall(*pair)) for pair in zip(shares, known, strict=True)]
        return Estimate(
            ends[2],
            self._stderr(spread),
            min(ends[0], ends[2]),
            max(ends[4], ends[2]),
            level,
            method,
            self.vectors,
            ends[1],
            ends[3],
            self.matvecs,
            f"{what}; {self.estimand}",
        )

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
        return self._band(grid, self.bracket(grid), level)

    def _band(
        self,
        grid: Float[np.ndarray, " points"],
        bracket: tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]],
        level: float,
    ) -> Band:
        low, high = bracket
        value = np.clip(self._gauss_cdf(grid), low, high)
        if self.random:
            tail = (1 - level) / (2 * self.rest)
            low, high = count_bounds(low, high, dim=self.rest, vectors=self.vectors, tail=tail)
        low, value, high = (
            self._overall(share, self._atoms_upto(grid, side))
            for share, side in ((low, -1), (value, 0), (high, 1))
        )
        # F is monotone, so its bounds may be made so.
        low = np.maximum.accumulate(np.minimum(low, value))
        high = np.minimum.accumulate(np.maximum(high, value)[::-1])[::-1]
        return Band(grid, value, low, high, level, "beta" if self.random else "bracket")

    # -- linear functionals ----------------------------------------------------------------------

    def moment(self, k: int, *, level: float = 0.95) -> Estimate:
        """Estimate ``(1/n) Σ λ_i^k``; for ``k <= 2 m - 1`` the quadrature is exact.

        Raises
        ------
        OperatorError
            If the order of the quadrature does not reach ``k``.
        """
        reach = int(2 * self.orders[~self.exact].min(initial=np.iinfo(np.int32).max) - 1)
        if k < 0 or k > reach:
            raise OperatorError(
                f"moment({k}) needs a quadrature exact to degree {k}; this one reaches {reach}. "
                f"Run slq with order >= {k // 2 + 1}."
            )
        blur = k * self.blur * float(np.abs(self.support).max()) ** max(k - 1, 0)
        return self._functional(
            lambda x: x**k, level, f"mean of eigenvalue^{k}", exact=True, blur=blur
        )

    def expectation(
        self, f: Callable[[Any], Any], *, level: float = 0.95, name: str = "f"
    ) -> Estimate:
        """Estimate ``(1/n) Σ f(λ_i)``.

        The bracket is ``∫ (U - L) |df|`` about the quadrature value. The interval is the extreme of
        ``∫ f dF`` over all distribution functions in the simultaneous band, *provided* that no
        eigenvalue lies beyond the outermost Ritz values widened by their residuals (which no
        quadrature can certify; use an order of 10 or more where ``f`` grows fast): honest with few
        vectors, and wide. For a tight interval of a trace use :func:`curvlab.trace`.

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
        return self._functional(f, level, f"mean of {name}(eigenvalue)", exact=False)

    def _functional(
        self, f: Callable[[Any], Any], level: float, what: str, *, exact: bool, blur: float = 0.0
    ) -> Estimate:
        grid = self.grid
        # Rise and fall of f inside each cell between grid points, from a finer sample.
        inner = np.linspace(0, 1, SUBDIVISIONS + 1)
        with np.errstate(all="ignore"):  # what is not finite is refused below
            samples = np.asarray(f(grid[:-1, None] + np.diff(grid)[:, None] * inner), np.float64)
        if not np.isfinite(samples).all():
            raise OperatorError(
                f"The function is not finite everywhere on [{grid[0]:.3g}, {grid[-1]:.3g}], where "
                "eigenvalues may lie. Clip it there, or shift the operator."
            )
        per_vector = (self.weights * f(self.nodes)).sum(1)
        known = float(np.sum(f(self.atoms))) if len(self.atoms) else 0.0
        value = float(self._overall(self.vector_weights @ per_vector, known))
        steps = np.diff(samples, axis=1)
        rise, fall = np.maximum(steps, 0).sum(1), np.maximum(-steps, 0).sum(1)
        last = float(samples[-1, -1])

        def ends(low: Any, high: Any) -> tuple[float, float]:
            # int f dF = f(end) - int F df; on each cell F lies between its left and right values.
            return (
                last - float((rise * high[1:] - fall * low[:-1]).sum()),
                last - float((rise * low[:-1] - fall * high[1:]).sum()),
            )

        low, high = (
            self._overall(share, self._atoms_upto(grid, side))
            for share, side in zip(self._grid_bracket, (-1, 1), strict=True)
        )
        bracket = (value - blur, value + blur) if exact else ends(low, high)
        if self.random:
            band = self._band(grid, self._grid_bracket, level)
            interval, method = ends(band.low, band.high), "band"
        else:
            interval, method = bracket, "bracket"
        return Estimate(
            value,
            self._stderr(per_vector.tolist()),
            min(interval[0], value),
            max(interval[1], value),
            level,
            method,
            self.vectors,
            min(bracket[0], value),
            max(bracket[1], value),
            self.matvecs,
            f"{what}; {self.estimand}",
        )

    def _stderr(self, per_vector: list[float]) -> float:
        if self.vectors < 2:
            return float("nan")
        spread = float(np.std(per_vector, ddof=1) * np.sqrt((self.vector_weights**2).sum()))
        return spread * self.rest / self.dim

    @cached_property
    def grid(self) -> Float[np.ndarray, " points"]:
        """Points that resolve the measure: all nodes and the middles between neighbours.

        The ends are the outermost Ritz values, widened by their residual bounds and by the noise
        floor.
        """
        nodes = np.unique(np.append(self.nodes.ravel(), self.atoms))
        reach = self.blur + max(
            abs(float(self.offdiagonal[row, int(m) - 1])) * _end_components(self, row)
            for row, m in enumerate(self.orders)
        )
        reach = max(reach, 1e-15 * float(np.abs(nodes).max()), 1e-300)
        ends = [nodes[0] - reach], [nodes[-1] + reach]
        return np.unique(np.concatenate([ends[0], nodes, (nodes[:-1] + nodes[1:]) / 2, ends[1]]))

    @cached_property
    def _grid_bracket(
        self,
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        return self.bracket(self.grid)

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
        axis = axis or LinearAxis()
        grid = np.asarray(grid, np.float64)
        centres = axis.forward(np.append(self.nodes.ravel(), self.atoms))
        pooled = self.rest / self.dim * self.vector_weights[:, None] * self.weights
        shares = np.append(pooled.ravel(), np.full(len(self.atoms), 1 / self.dim))
        value = smooth(axis.forward(grid), centres, shares, bandwidth)
        # Resolve the kernel, and the flanks of heavy atoms (the null cluster).
        span = axis.forward(np.array([self.grid[0], self.grid[-1]]))
        cells = min(int((span[1] - span[0]) / bandwidth * 5), FINEST)
        fine = np.linspace(span[0], span[1], 2 + cells)
        heavy = centres[shares > 0.01]
        flanks = [heavy + step * bandwidth for step in (-0.03, -0.003, 0.003, 0.03)]
        points = axis.inverse(np.unique(np.concatenate([fine, *flanks])))
        band = self.cdf_band(points, level=level)
        return kernel_density(grid, value, band, axis=axis, bandwidth=bandwidth)

    def ritz_histogram(self, grid: Float[Any, " points"], *, bandwidth: float) -> Density:
        """Smooth the Ritz values with *equal* weights, as older figures of Hessian spectra did.

        This is not a density of eigenvalues: it depends on the order, and an outlier among millions
        of eigenvalues counts as much as the bulk. It is here to redraw published figures.

        Raises
        ------
        OperatorError
            If the Lanczos vectors were not kept orthogonal, or eigenvalues were deflated.
        """
        if not self.orthogonal or len(self.atoms):
            raise OperatorError(
                "Equally weighted Ritz values were asked of a measure "
                + ("with deflated eigenvalues" if self.orthogonal else "without a stored basis")
                + ", where their number means nothing. Run slq with its basis and without deflate=."
            )
        grid = np.asarray(grid, np.float64)
        shares = np.concatenate([np.full(int(m), 1 / int(m)) for m in self.orders]) / self.vectors
        nodes = np.concatenate(
            [row[: int(m)] for row, m in zip(self.nodes, self.orders, strict=True)]
        )
        value = smooth(grid, nodes, shares, bandwidth)
        unknown = np.full(grid.shape, np.nan)
        unit = f"Ritz values, order {int(self.orders.max())}, per unit eigenvalue"
        return Density(grid, value, unknown, unknown, float("nan"), bandwidth, unit)

    # -- storage -----------------------------------------------------------------------------------

    def to_dataset(self) -> "xr.Dataset":
        """Return everything as an ``xarray.Dataset`` over ``vector`` and ``node``."""
        import xarray as xr

        table = ("vector", "node")
        deflated: Any = {}
        if len(self.atoms):
            deflated = {"atoms": (("atom",), self.atoms), "coupling": self.coupling}
        return xr.Dataset(
            {
                **{name: (table, getattr(self, name)) for name in _TABLES},
                **{name: (("vector",), getattr(self, name)) for name in _COLUMNS},
                "dim": self.dim,
                "noise_floor": self.noise_floor,
                "random": self.random,
                "matvecs": self.matvecs,
                "orthogonal": self.orthogonal,
                **deflated,
            },
            attrs={"estimand": self.estimand},
        )

    @classmethod
    def from_dataset(cls, dataset: "xr.Dataset") -> "SpectralMeasure":
        """Rebuild a measure from :meth:`to_dataset`."""
        return cls(
            **{name: np.asarray(dataset[name].values, np.float64) for name in _TABLES},
            orders=np.asarray(dataset["orders"].values).astype(int),
            exact=np.asarray(dataset["exact"].values).astype(bool),
            vector_weights=np.asarray(dataset["vector_weights"].values, np.float64),
            dim=int(dataset["dim"]),
            noise_floor=float(dataset["noise_floor"]),
            random=bool(dataset["random"]),
            matvecs=int(dataset["matvecs"]),
            estimand=str(dataset.attrs.get("estimand", "")),
            atoms=np.asarray(dataset.get("atoms", np.zeros(0)), np.float64),
            coupling=float(dataset.get("coupling", 0.0)),
            orthogonal=bool(dataset["orthogonal"]),
        )


_TABLES = ("nodes", "weights", "diagonal", "offdiagonal")
_COLUMNS = ("orders", "exact", "vector_weights")


def _step_cdf(
    nodes: Float[np.ndarray, " order"], weights: Float[np.ndarray, " order"], points: Any
) -> Float[np.ndarray, " points"]:
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    return cumulative[np.searchsorted(nodes, points, side="right")]


def _end_components(measure: SpectralMeasure, row: int) -> float:
    """Largest last component among the two outermost eigenvectors of ``T``."""
    m = int(measure.orders[row])
    _, vectors = tridiagonal_eigh(measure.diagonal[row, :m], measure.offdiagonal[row, : m - 1])
    return float(np.abs(vectors[-1, [0, -1]]).max())
