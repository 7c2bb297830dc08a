"""What a network is to the rest of the package, and the networks of the two studies.

network   `Network`: pure functions of parameters and BatchNorm statistics
losses    what outputs are trained for: LOSSES, accuracy, and losses of the user's own
checks    whether a loss is what it says, and takes outputs and targets
batches   losses over a whole batch, as contrastive ones are, on fixed batches
layers    convolution, BatchNorm, pooling; the same numbers in two lowerings
tiles     convolutions a few examples at a time, for the CPU
modules   any Flax NNX module as a `Network`
linen     any Flax Linen module as a `Network`
equinox   any Equinox model as a `Network`
models    the networks by name
zoo       a room of its own: what `models` is made of
weights   parameters that were trained elsewhere, from files
"""

from jaxsharp.networks.batches import in_batches as in_batches
from jaxsharp.networks.batches import whole_batch as whole_batch
from jaxsharp.networks.equinox import from_equinox as from_equinox
from jaxsharp.networks.layers import BatchNorm as BatchNorm
from jaxsharp.networks.layers import ConvReLU as ConvReLU
from jaxsharp.networks.layers import max_pool as max_pool
from jaxsharp.networks.linen import from_linen as from_linen
from jaxsharp.networks.losses import LOSSES as LOSSES
from jaxsharp.networks.losses import Loss as Loss
from jaxsharp.networks.losses import accuracy as accuracy
from jaxsharp.networks.losses import by_weights as by_weights
from jaxsharp.networks.losses import cross_entropy as cross_entropy
from jaxsharp.networks.models import MODELS as MODELS
from jaxsharp.networks.models import ModelSpec as ModelSpec
from jaxsharp.networks.models import load as load
from jaxsharp.networks.modules import from_nnx as from_nnx
from jaxsharp.networks.network import Network as Network
from jaxsharp.networks.network import recompute_statistics as recompute_statistics
from jaxsharp.networks.weights import load_weights as load_weights
from jaxsharp.networks.weights import place_weights as place_weights
