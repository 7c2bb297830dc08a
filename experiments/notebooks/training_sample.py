# %% [markdown]
# # Train a network and measure its sharpness
#
# One network by one optimizer, alone and with SAM, as in study A: training curves, sharpness with
# its errors, and what minimum sharpness is the minimum of. Choose below; `jaxsharp list` has the
# names. Study A's smallest case, "simple_batch" on "fashion_mnist", takes an accelerator or
# patience; the digits take a minute.

# %% tags=["parameters"]
dataset, model, optimizer = "digits", "small_mlp", "adam"
train_size, epochs, loss_below = 1400, 200, 0.01

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import jax
import pandas as pd

from jaxsharp import analysis, data, measures, networks, runs, studies

# %% [markdown]
# ## Training
#
# Both runs end after the first epoch whose training loss is below the same number, since
# sharpness of the cross-entropy falls with the loss. A folder of your own, instead of a temporary
# one, keeps the checkpoints: the same call continues there, and repeats nothing.

# %%
folder = Path(tempfile.mkdtemp())
result = studies.run(
    model,
    dataset,
    out=folder,
    optimizers=[optimizer],
    sam=["none", "sam"],
    seeds=1,
    train_size=train_size,
    epochs=epochs,
    loss_below=loss_below,
    measures=["minimum_sharpness", "top_eigenvalue"],
)
columns = ["optimizer", "sam", "epochs", "converged", "train_loss", "test_accuracy", "gap"]
result.runs[columns].round(4)

# %%
analysis.training_curves(pd.read_csv(folder / "history.csv"))

# %% [markdown]
# ## Sharpness
#
# Over all training examples, each value with its error: minimum sharpness with the duality gap of
# its solver, the largest eigenvalue of the Hessian with its residual.

# %%
for run in result.runs.itertuples():
    print(f"{run.optimizer}, SAM {run.sam}")
    for name in ("minimum_sharpness", "top_eigenvalue"):
        value, error = getattr(run, name), getattr(run, f"{name}_error")
        print(f"  {name} {value:.4g}, error {error:.1g}")

# %% [markdown]
# ## What it is the minimum of
#
# Layers of a ReLU network can be rescaled so that the network stays what it is. The trace of the
# Hessian does not; minimum sharpness is the smallest trace that any such rescaling reaches. Here
# the parameters come back from the checkpoint, as plain dictionaries of arrays.

# %%
examples = data.load(dataset, train_size=train_size)
network = networks.load(model, examples)
for run in sorted((folder / "runs").iterdir()):
    params, stats = runs.load_parameters(run)
    batch = examples.train.images, examples.train.labels
    names = ["hessian_trace", "minimum_sharpness"]
    found = measures.measure(network, params, stats, batch, names, key=jax.random.key(0))
    trace, least = (found[name].value for name in names)
    print(f"{run.name}: trace {trace:.4g}, minimum {least:.4g}, a share of {least / trace:.2f}")
