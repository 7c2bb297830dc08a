"""The command that evaluates tables of runs, and the evaluation of a study at its end.

command  the command
tables   tables of runs, ours or anybody's, and what their columns are
ending   a study evaluated at its end
output   what is printed and written
"""
