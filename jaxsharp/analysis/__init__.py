"""Statistics of tables of runs, and figures.

statistics     which runs of a table count; summaries over seeds; correlations with controls
means          means of a few values, and their intervals
coefficients   correlation coefficients of arrays, and their intervals
evaluation     what each measure of a table predicts, beside controls
hypotheses     which sign is expected of which measure and target
results        what the table of a study says
comparisons    the figure of sharpness against the gap
effects        figures of gap and measures against what a study varies
figures        training curves, densities of eigenvalues
landscapes     the loss along lines and over planes
looks          colours, shapes and shades by what a run is
canvas         the look of figures
ticks          where an axis has ticks
page           one HTML page of studies
"""

from jaxsharp.analysis import page as page
from jaxsharp.analysis.coefficients import Coefficient as Coefficient
from jaxsharp.analysis.comparisons import sharpness_against_gap as sharpness_against_gap
from jaxsharp.analysis.effects import against_setting as against_setting
from jaxsharp.analysis.effects import side_by_side as side_by_side
from jaxsharp.analysis.evaluation import Evaluation as Evaluation
from jaxsharp.analysis.evaluation import evaluate as evaluate
from jaxsharp.analysis.evaluation import forest as forest
from jaxsharp.analysis.evaluation import markdown as markdown
from jaxsharp.analysis.figures import run_curves as run_curves
from jaxsharp.analysis.figures import spectral_densities as spectral_densities
from jaxsharp.analysis.figures import tracked_curves as tracked_curves
from jaxsharp.analysis.figures import training_curves as training_curves
from jaxsharp.analysis.landscapes import loss_lines as loss_lines
from jaxsharp.analysis.landscapes import loss_plane as loss_plane
from jaxsharp.analysis.means import Interval as Interval
from jaxsharp.analysis.means import geometric_mean_interval as geometric_mean_interval
from jaxsharp.analysis.means import mean_interval as mean_interval
from jaxsharp.analysis.results import study_result as study_result
from jaxsharp.analysis.statistics import Correlation as Correlation
from jaxsharp.analysis.statistics import Usable as Usable
from jaxsharp.analysis.statistics import correlation as correlation
from jaxsharp.analysis.statistics import summarize as summarize
from jaxsharp.analysis.statistics import unfinished as unfinished
from jaxsharp.analysis.statistics import usable as usable
