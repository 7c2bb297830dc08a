"""Checkpoints of runs and studies: which there are, measured and as tables.

choice    those that a user asks for
work      runs and studies, measured there in few programs
again     those at losses that were lost, trained again
"""

from jaxsharp.studies.checkpoints.choice import Choice as Choice
from jaxsharp.studies.checkpoints.choice import parse_epochs as parse_epochs
