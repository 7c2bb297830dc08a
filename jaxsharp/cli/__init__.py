"""The command line: parses, checks names, calls, prints.

commands   the commands, and what signals and errors become
run        commands on a single run, and those that show runs and studies
sharpness  the command that measures runs and studies
study      commands on studies
submit     the command that makes jobs of a study's shards
evaluate   the command on tables of runs, and a study evaluated at its end
sources    the user's own networks and data
parsing    arguments of a command, or one line
signals    the entry point, and what ends a command from outside
output     where commands print
progress   progress lines
report     what commands print at their end
tables     tables as wide as the place they are printed in
"""

from jaxsharp.cli.signals import main as main
