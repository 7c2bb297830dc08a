"""The command line: parses, checks names, calls, prints.

commands   the commands, and what signals and errors become
run        commands on single runs
study      commands on studies
progress   progress lines
report     printed tables
"""

from jaxsharp.cli.commands import main as main
