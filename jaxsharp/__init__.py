"""Train networks, measure the sharpness of the minima they reach, test what it predicts.

The rooms, from the ground up; each imports from those above it in this list alone:

    core         pytrees as vectors, means over chunks, memory, reading of programs
    data         data sets as arrays, and their readers
    curvature    products, eigenpairs, densities and traces of second derivatives
    networks     what a network is to the rest; layers; the networks of the two studies
    optimizers   the six of study A; SAM and its variants over any
    analysis     statistics of tables of runs; figures
    measures     sharpness of a trained network, with errors
    training     one compiled program an epoch; many runs in one program
    runs         what is on disk: configurations, checkpoints, locks
    studies      grids of runs: trained, measured, resumed, joined
    cli          the command line
"""

__version__ = "0.1.0"
