"""Commands on studies: run one or a part of one, join parts.

command  the commands
asked    what their options ask for, checked
doing    a study done in its folder, and what is printed
"""
