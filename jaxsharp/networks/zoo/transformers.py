"""Transformers: pre-norm blocks, over patches of an image or over characters.

Matrices are drawn from N(0, 0.02^2), those that write into the residual stream with a variance
smaller by twice the number of blocks (Radford et al. 2019, section 2.3).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

STD = 0.02


def dense(features_in, features, rngs, *, bias, std=STD) -> nnx.Linear:
    """Affine or linear layer."""
    init = nnx.initializers.normal(std)
    return nnx.Linear(features_in, features, kernel_init=init, use_bias=bias, rngs=rngs)


def gelu(x: Array) -> Array:
    """x times the probability that a standard normal number is below it."""
    return jax.nn.gelu(x, approximate=False)


class Attention(nnx.Module):
    """Softmax of scaled products (Vaswani et al. 2017, equation 1), in parallel heads."""

    def __init__(self, width, heads, *, causal, bias, std, rngs):
        self.inputs = dense(width, 3 * width, rngs, bias=bias)
        self.outputs = dense(width, width, rngs, bias=bias, std=std)
        self.heads, self.causal = heads, causal

    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        n, length, width = x.shape
        split = self.inputs(x).reshape(n, length, 3, self.heads, width // self.heads)
        queries, keys, values = (split[:, :, i] for i in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", queries, keys) * (width // self.heads) ** -0.5
        if self.causal:
            scores = jnp.where(jnp.tri(length, dtype=bool), scores, -jnp.inf)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), values)
        return self.outputs(mixed.reshape(x.shape))


class TransformerBlock(nnx.Module):
    """x + attention(norm(x)), then x + dense(gelu(dense(norm(x)))) with 4 times the width."""

    def __init__(self, width, heads, *, depth, causal, bias, rngs):
        std = STD / (2 * depth) ** 0.5
        norm = {"use_bias": bias, "epsilon": 1e-5, "rngs": rngs}
        self.norm1, self.norm2 = nnx.LayerNorm(width, **norm), nnx.LayerNorm(width, **norm)
        self.attention = Attention(width, heads, causal=causal, bias=bias, std=std, rngs=rngs)
        self.dense1 = dense(width, 4 * width, rngs, bias=bias)
        self.dense2 = dense(4 * width, width, rngs, bias=bias, std=std)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.dense2(gelu(self.dense1(self.norm2(x))))


class Patches(nnx.Module):
    """An image as tokens: each square of pixels by one affine layer, plus what tells its place."""

    def __init__(self, shape, patch, width, rngs):
        height, columns, channels = shape
        self.patch = patch
        self.dense = dense(patch * patch * channels, width, rngs, bias=True)
        length = (height // patch) * (columns // patch)
        init = nnx.initializers.normal(STD)
        self.places = nnx.Param(init(rngs.params(), (length, width), jnp.float32))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n t d"]:
        n, height, width, channels = x.shape
        p = self.patch
        x = x.reshape(n, height // p, p, width // p, p, channels).swapaxes(2, 3)
        return self.dense(x.reshape(n, -1, p * p * channels)) + self.places[...][None]


class Tokens(nnx.Module):
    """A row for each token, plus one that tells its place."""

    def __init__(self, vocabulary, length, width, rngs):
        init = nnx.initializers.normal(STD)
        self.embed = nnx.Embed(vocabulary, width, embedding_init=init, rngs=rngs)
        self.places = nnx.Param(init(rngs.params(), (length, width), jnp.float32))

    def __call__(self, tokens):
        return self.embed(tokens) + self.places[: tokens.shape[1]][None]


class Tied(nnx.Module):
    """Logits as products with the rows of the tokens."""

    def __init__(self, tokens: Tokens):
        self.embed = tokens.embed

    def __call__(self, x):
        return self.embed.attend(x)


def mean_token(x: Float[Array, "n t d"]) -> Float[Array, "n d"]:
    """Mean over the tokens."""
    return x.mean(1)


def vit(width: int, depth: int, heads: int, *, patch: int = 4) -> Callable:
    """Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929).

    Deviations: places are learned as there, and the last layer takes the mean over the patches
    instead of a token of its own.
    """
    check_heads(width, heads)

    def body(shape, num_outputs, lowering, rngs):
        if shape[0] % patch or shape[1] % patch:
            raise ValueError(
                f"images of shape {shape} cannot be cut into patches of {patch} x {patch}; height "
                f"and width must be multiples of {patch}"
            )
        options = {"depth": depth, "causal": False, "bias": True, "rngs": rngs}
        return [
            Patches(shape, patch, width, rngs),
            *(TransformerBlock(width, heads, **options) for _ in range(depth)),
            *(nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs), mean_token),
            dense(width, num_outputs, rngs, bias=True),
        ]

    return body


def gpt(width: int, depth: int, heads: int) -> Callable:
    """GPT without biases, its last layer the rows of the tokens (Radford et al. 2019, GPT-2).

    128, 4 and 4 are the small one of A. Karpathy's nanoGPT for characters, of 0.80 million
    parameters beside those that tell places. No dropout. It gives, at each of a window's tokens,
    the logits of the next one.
    """
    check_heads(width, heads)

    def body(shape, num_outputs, lowering, rngs):
        tokens = Tokens(num_outputs, shape[0], width, rngs)
        options = {"depth": depth, "causal": True, "bias": False, "rngs": rngs}
        return [
            tokens,
            *(TransformerBlock(width, heads, **options) for _ in range(depth)),
            *(nnx.LayerNorm(width, use_bias=False, epsilon=1e-5, rngs=rngs), Tied(tokens)),
        ]

    return body


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless heads share a width evenly."""
    if width % heads:
        raise ValueError(f"width is {width} with {heads} heads; it must be a multiple of heads")
