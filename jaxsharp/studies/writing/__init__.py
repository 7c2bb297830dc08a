"""What a study writes: states of runs, and the tables that are made of them.

following  what is followed of the members of a group along their training
saving   members of a group on the host: continued from their directories, saved there
tables   tables and figures of the study
joined   tables of several studies as one
"""
