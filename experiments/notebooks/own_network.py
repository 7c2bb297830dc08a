# %% [markdown]
# # Your own network and data, end to end
#
# Data as arrays, a network in Flax NNX, a study of optimizers with and without SAM, what its
# sharpness predicts, and the parameters back for your own use. Equinox, Linen and plain functions
# work alike (`jaxsharp/networks/README.md`).

# %% tags=["parameters"]
num_points, epochs, seeds = 600, 100, 5
learning_rates = [0.05, 0.1, 0.2, 0.4]

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

from jaxsharp import analysis, data, networks, runs, studies

# %% [markdown]
# ## Data
#
# Three spiral arms with noise. Any NumPy arrays do, examples first; labels are classes from 0 on.

# %%
rng = np.random.default_rng(0)
arm = rng.integers(0, 3, num_points)
radius = rng.uniform(0.2, 1.0, num_points)
angle = 2 * np.pi * arm / 3 + 4 * radius + 0.3 * rng.normal(size=num_points)
points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
half = num_points // 2
spirals = data.from_arrays(
    train=(points[:half], arm[:half]), test=(points[half:], arm[half:]), name="spirals"
)

# %% [markdown]
# ## Network
#
# Any module that is made from `rngs` and called with a batch.


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 32, rngs=rngs)
        self.second = nnx.Linear(32, 32, rngs=rngs)
        self.last = nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.second(nnx.relu(self.first(x)))))


network = networks.from_nnx(Net)

# %% [markdown]
# ## Study
#
# SGD alone and with SAM, at four learning rates. `optimizers` and `measures` take your own
# functions too; this measure is the norm of the last layer.


# %%
def last_norm(network, params, stats, batch, key):
    """Norm of the weights of the last layer."""
    return (params["last"]["kernel"] ** 2).sum() ** 0.5


folder = Path(tempfile.mkdtemp())
result = studies.run(
    network,
    spirals,
    out=folder,
    optimizers=["sgd"],
    vary={"learning_rate": learning_rates},
    seeds=seeds,
    epochs=epochs,
    batch_size=50,
    loss_below=None,
    measures=["minimum_sharpness", "top_eigenvalue", last_norm],
)
axes = ["sam", "learning_rate"]
means = ["test_accuracy_mean", "gap_mean", "minimum_sharpness_geomean", "top_eigenvalue_geomean"]
result.summary[[*axes, *means]].round(3)

# %% [markdown]
# ## Does sharpness predict the gap?
#
# Beside controls: the training loss, each setting, and a random number. All runs have equal
# epochs, and not equal loss: a raw coefficient would call each of the three measures a predictor,
# the norm of the last layer too. The verdict says what is left of it.

# %%
found = analysis.evaluate(
    result.runs,
    measures=["minimum_sharpness", "top_eigenvalue", "last_norm"],
    target="gap",
    hyper=axes,
    seed="seed",
    converged=None,
)
print(found.headline)
found.table[["measure", "kind", "raw", "within", "given_loss", "verdict"]].round(2)

# %%
analysis.sharpness_against_gap(
    result.runs, ["minimum_sharpness", "last_norm"], result.correlations, ["learning_rate"]
)

# %% [markdown]
# ## The parameters back
#
# What a run has learned: classes over the plane.

# %%
params, stats = runs.load_parameters(sorted((folder / "runs").iterdir())[0])
line = np.linspace(-1.2, 1.2, 120, dtype=np.float32)
plane = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
outputs = np.asarray(network.evaluate(params, stats, plane))
figure, panel = plt.subplots(figsize=(3.6, 3.6), dpi=72)
panel.pcolormesh(line, line, outputs.argmax(1).reshape(120, 120), cmap="Pastel1")
panel.scatter(*points[half:].T, c=arm[half:], cmap="Set1", s=6)
panel.set(title="test points, predicted classes", xticks=[], yticks=[])
plt.show()
