"""What is on disk of a training run, and whose it is.

config        everything that decides the numbers of one run, and its name
directory     what a run's directory has: checkpoints, history, sharpness
measurements  what was measured of a run, at its end and before
columns       names of columns and checkpoints
reading       what is trained, for those who change nothing
losses        training losses at which a run is saved
growth        runs that are trained on to more epochs
tables        what tables have of a run
checkpoint    arrays on disk with checksums, whole or not at all
claims        whose a directory is: configurations, checksums, damage
fingerprint   what a run was made from: digests of data and programs
files         files that are written whole, folders that are locked
"""

from jaxsharp.runs.claims import RunError as RunError
from jaxsharp.runs.claims import read_run_config as read_run_config
from jaxsharp.runs.config import SAM as SAM
from jaxsharp.runs.config import RunConfig as RunConfig
from jaxsharp.runs.config import Settings as Settings
from jaxsharp.runs.directory import read_history as read_history
from jaxsharp.runs.measurements import read_checkpoint_sharpness as read_checkpoint_sharpness
from jaxsharp.runs.measurements import read_sharpness as read_sharpness
from jaxsharp.runs.reading import load_parameters as load_parameters
