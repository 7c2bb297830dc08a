"""What each measure of a table of runs says of generalization, beside controls.

evaluating    the table: one row a measure, one a control
inputs        what is asked for, checked; the controls
samples       the usable runs of one measure as arrays
resampling    bootstrap over configurations, permutation inside of them, Holm
pairs         pairs that differ in one hyper-parameter; conditional information
partial       rank correlations given training loss and hyper-parameters
regressions   cross-validated increment, mixed model
verdicts      what the coefficients say together
notes         headline, and what entered
texts         numbers and tables as text
forest        the figure
at_losses     the same at equal training losses
"""

from jaxsharp.analysis.evaluation.at_losses import AtLoss as AtLoss
from jaxsharp.analysis.evaluation.at_losses import evaluate_at_losses as evaluate_at_losses
from jaxsharp.analysis.evaluation.evaluating import Evaluation as Evaluation
from jaxsharp.analysis.evaluation.evaluating import evaluate as evaluate
from jaxsharp.analysis.evaluation.forest import forest as forest
from jaxsharp.analysis.evaluation.texts import markdown as markdown
