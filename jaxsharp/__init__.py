"""Train networks, measure the sharpness of the minima they reach, test what it predicts.

From the numerical core outwards; a module imports none that stands below it:

programs, trees            reading of jaxprs; pytrees as vectors
chunks, memory             means over data in chunks; how large a chunk may be
operators, likelihoods     what a product is; distributions of targets
checks, linearization      what a loss must be; derivatives as linear maps
products                   Hessian, Gauss-Newton and Fisher products
krylov, density, lanczos   eigenpairs with residuals; densities of eigenvalues
traces, sketches           stochastic traces with standard errors; Hutch++ and XTrace
structure, exact           rescalings a network admits, read off its program; exact traces
ascent, losses, network    inner maximizers; the training loss; what a network is to the rest
measures                   minimum sharpness, top eigenvalue, random perturbations; MEASURES
optimizers                 the six of study A; SAM and its variants over any; OPTIMIZERS
data, readers              image data sets as uint8 arrays; DATASETS
layers, models             networks of the two studies; MODELS; the only modules that know flax
members                    runs stacked in one program, over the devices of one host or of several
train                      one compiled program an epoch, stopping rules
config, files              configuration of a run; files that are whole, folders that are locked
checkpoint, claims, runs   arrays on disk with checksums; whose a directory is; what a run has
workbench                  what a configuration means in arrays and functions
interrupts, sweep          a group of runs trained to the end, saved and resumed
measuring                  the measures of a group in one program
stats, canvas, figures     intervals, correlations with controls; the look of figures; figures
grid, study                groups and parts of a grid; the main job
status, merge, report      how far a study is; parts put together; printed tables
choices, progress          what a user may name; progress lines
tensorboard                scalars of running studies
cli_study, cli             the command line
"""

__version__ = "0.1.0"
