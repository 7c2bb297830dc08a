"""A study as jobs of a cluster, or here: a shard each, and one that merges them.

command  the command
jobs     the parts of a study, and the Slurm scripts of its jobs
local    the shards as processes of this machine
"""
