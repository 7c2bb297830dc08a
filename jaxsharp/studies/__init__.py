"""Grids of runs: trained, measured, put into tables and figures, resumed.

study         the main job: train, measure, write
grid          configurations of studies: members, groups of one program, parts
sweep         a group of runs trained to the end, saved and resumed
measuring     the measures of a group in one program
workbench     a data set and a network, and what may be done with them
recipes       what a configuration means to training
origins       what runs are made from, as digests
own           studies of the user's own network, data and recipe
interrupts    signals that wait for the end of an epoch
status        how far a study is
merge         parts put together
tensorboard   scalars of running studies
checkpoints   runs and studies measured at their checkpoints
report        what a page shows of folders
writing       what a study writes: states of runs, tables, figures
"""

from jaxsharp.studies.grid import StudyConfig as StudyConfig
from jaxsharp.studies.own import run as run
from jaxsharp.studies.study import StudyResult as StudyResult
from jaxsharp.studies.study import conduct as conduct
from jaxsharp.studies.sweep import Layout as Layout
from jaxsharp.studies.workbench import load_workbench as load_workbench
