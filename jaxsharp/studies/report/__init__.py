"""What a page (`analysis.page`) has of folders.

folders   studies, and single runs, with their tables and settings
command   the command that makes a study or a run
"""

from jaxsharp.studies.report.command import command_of as command_of
from jaxsharp.studies.report.folders import read as read
from jaxsharp.studies.report.folders import summed_up as summed_up
