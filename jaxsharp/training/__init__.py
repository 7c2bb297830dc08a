"""Training as one compiled program an epoch, and many runs in one program.

averages  of the parameters, which are measured in their place
precision  the forward and backward pass in bfloat16
regimes   schedules, augmentation, smoothed labels, mixed examples
groups    of the examples of a step, for variants that cut it
epochs    state, step, epoch, evaluation, and when a run has ended
members   runs stacked in one program, over the devices of one host or of several
trackers  what is followed along training, after epochs
descents  what is known of the steps of a run: preconditioner and edge of stability
hosts     several processes that work on one study
"""

from jaxsharp.training.averages import Averaging as Averaging
from jaxsharp.training.epochs import Data as Data
from jaxsharp.training.epochs import Metrics as Metrics
from jaxsharp.training.epochs import Recipe as Recipe
from jaxsharp.training.epochs import Stopping as Stopping
from jaxsharp.training.epochs import Streams as Streams
from jaxsharp.training.epochs import TrainState as TrainState
from jaxsharp.training.hosts import Hosts as Hosts
from jaxsharp.training.regimes import SCHEDULES as SCHEDULES
from jaxsharp.training.regimes import Regime as Regime
