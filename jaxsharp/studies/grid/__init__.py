"""The grid of a study: its configuration, its members in order, and its parts.

config         everything that decides the numbers of a study; the one that a folder holds
axes           settings that a grid varies, and their values
parts          what one program trains, and shards
registration   hypotheses and grid as they were before the first run
"""

from jaxsharp.studies.grid.axes import parse_vary as parse_vary
from jaxsharp.studies.grid.config import StudyConfig as StudyConfig
from jaxsharp.studies.grid.config import held as held
from jaxsharp.studies.grid.config import listed as listed
from jaxsharp.studies.grid.parts import group_key as group_key
from jaxsharp.studies.grid.parts import parse_shard as parse_shard
