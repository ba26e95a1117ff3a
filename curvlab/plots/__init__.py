"""Pictures of spectra and of training, drawn with matplotlib on axes that the caller owns.

Every function draws what it is given, averages nothing and labels its axes with units. Which
results a picture of the paper needs, and how its panels are laid out, belongs to ``figures/``.
Needs the extra ``figures``.
"""

from curvlab.plots.eigenvalue_axis import label_eigenvalue_axis as label_eigenvalue_axis
from curvlab.plots.eigenvalue_axis import set_eigenvalue_scale as set_eigenvalue_scale
from curvlab.plots.evolution import plot_spectra_over_training as plot_spectra_over_training
from curvlab.plots.loss_slices import loss_plane_figure as loss_plane_figure
from curvlab.plots.loss_slices import loss_slice_figure as loss_slice_figure
from curvlab.plots.loss_slices import plot_finite_curvature as plot_finite_curvature
from curvlab.plots.loss_slices import plot_loss_plane as plot_loss_plane
from curvlab.plots.loss_slices import plot_loss_slice as plot_loss_slice
from curvlab.plots.spectra import plot_cdf as plot_cdf
from curvlab.plots.spectra import plot_density as plot_density
from curvlab.plots.spectra import plot_density_map as plot_density_map
from curvlab.plots.spectra import spectrum_figure as spectrum_figure
from curvlab.plots.style import SERIES as SERIES
from curvlab.plots.style import SeriesStyle as SeriesStyle
from curvlab.plots.style import save as save
from curvlab.plots.style import style as style
from curvlab.plots.training import label_steps as label_steps
from curvlab.plots.training import plot_curve as plot_curve
from curvlab.plots.training import plot_intervals as plot_intervals
from curvlab.plots.training import plot_task_boundaries as plot_task_boundaries
from curvlab.plots.trajectories import trajectory_figure as trajectory_figure
