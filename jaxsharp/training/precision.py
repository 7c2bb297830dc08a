"""Training in bfloat16, of which parameters, statistics and the loss see nothing."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr
from jaxtyping import Array, ArrayLike, PyTree

from jaxsharp.core.choices import counted
from jaxsharp.core.programs import subprograms
from jaxsharp.core.trees import widen
from jaxsharp.networks.network import Network

COMPUTE = ("float32", "bfloat16")
PRODUCTS = ("dot_general", "conv_general_dilated")


def forward_in(compute: str, network: Network) -> Callable:
    """`Network.forward`, in bfloat16 if that is asked for.

    Then parameters, and inputs that are real numbers or pixels, are rounded to bfloat16 (8 bits of
    precision, the range of float32), and whatever the network computes of them is in it, but for
    what the network itself casts. Outputs are float32 again; statistics are given, and taken, in
    their own precision. So gradients, through the rounding, are those of float32 parameters.
    """
    if compute == "float32":
        return network.forward

    def forward(params, stats, inputs, key):
        outputs, new = network.forward(rounded(params), stats, rounded(inputs), key)
        return widen(outputs), jax.tree.map(lambda x, old: x.astype(old.dtype), new, stats)

    return forward


def rounded(tree: PyTree) -> PyTree:
    """The tree with real numbers and uint8, which bfloat16 holds, in bfloat16; indices stay."""

    def cast(x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        is_number = jnp.issubdtype(x.dtype, jnp.floating) or x.dtype == jnp.uint8
        return x.astype(jnp.bfloat16) if is_number else x

    return jax.tree.map(cast, tree)


def check_compute(compute: str, network: Network, inputs: PyTree) -> None:
    """Raise ValueError for a network that has products in float32 though bfloat16 is asked for.

    So it is with one that casts parameters, inputs or what is between layers, or computes with
    float32 arrays of its own: what follows is then in float32, too.
    """
    if compute == "float32":
        return
    key = jax.eval_shape(lambda: jax.random.key(0))
    made = jax.eval_shape(network.init, key)
    program = jax.make_jaxpr(forward_in(compute, network))(*made, inputs, key)
    wider = [dtype for dtype in product_dtypes(program.jaxpr) if dtype != compute]
    if wider:
        raise ValueError(
            f"compute is {compute}, and {counted(len(wider), 'product')} of the network would be "
            f"in {wider[0]}: it casts, or has arrays of that type that are no parameters; compute "
            "must be float32"
        )


def product_dtypes(jaxpr: Jaxpr) -> Iterator[jnp.dtype]:
    """The dtypes in which a program multiplies matrices or convolves, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield jnp.result_type(*(atom.aval.dtype for atom in equation.invars))
    for inner in subprograms(jaxpr):
        yield from product_dtypes(inner.jaxpr)
