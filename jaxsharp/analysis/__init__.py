"""Statistics of tables of runs, and figures.

statistics     which runs of a table count; intervals over seeds; correlations with controls
coefficients   correlation coefficients of arrays, and their intervals
figures        training curves, sharpness against gap, densities of eigenvalues
canvas         the look of figures
"""

from jaxsharp.analysis.coefficients import Coefficient as Coefficient
from jaxsharp.analysis.figures import run_curves as run_curves
from jaxsharp.analysis.figures import sharpness_against_gap as sharpness_against_gap
from jaxsharp.analysis.figures import spectral_densities as spectral_densities
from jaxsharp.analysis.figures import training_curves as training_curves
from jaxsharp.analysis.statistics import Correlation as Correlation
from jaxsharp.analysis.statistics import Interval as Interval
from jaxsharp.analysis.statistics import Usable as Usable
from jaxsharp.analysis.statistics import correlation as correlation
from jaxsharp.analysis.statistics import mean_interval as mean_interval
from jaxsharp.analysis.statistics import summarize as summarize
from jaxsharp.analysis.statistics import unfinished as unfinished
from jaxsharp.analysis.statistics import usable as usable
