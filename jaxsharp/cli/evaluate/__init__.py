"""The command that evaluates tables of runs, and the evaluation of a study at its end.

command     the command
tables      tables of runs, ours or anybody's, and what their columns are
registered  what the studies of tables registered before their first runs
ending      a study evaluated at its end
output      what is printed and written
"""
