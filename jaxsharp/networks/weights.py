"""Parameters that were trained elsewhere, from files, in the places that a network has for them.

Names are those of the network's trees joined by dots, as in ``first.kernel``, with or without a
prefix that all of a file's names share (``params.``, ``module.``). A PyTorch state dict saved as
safetensors is read by these rules beside the exact names:

| network | file | array |
|---|---|---|
| kernel of two axes | weight | transposed: (out, in) to (in, out) |
| kernel of three or four axes | weight | (out, in, h, w) to (h, w, in, out) |
| the same of ConvTranspose | weight | (in, out, h, w) to (h, w, in, out), turned by 180 degrees |
| with transpose_kernel | weight | (in, out, h, w) to (h, w, out, in) |
| scale, embedding | weight | as it is |
| mean, var | running_mean, running_var | as they are |

A folder is a checkpoint of orbax: of nested dictionaries, of the variables of a Linen module
(``params`` beside ``batch_stats``), or of the state of an NNX module, of which ``.value`` is taken
from the names, and the random streams (``rngs``) are left out.

Arrays must be of real numbers where the network's are, and of integers where those are.
``num_batches_tracked`` is left out. ConvTranspose of Equinox has PyTorch's name and other axes, and
is read as Equinox has it. A dense layer behind a flattened image takes its inputs in the
order height, width, channels; PyTorch flattens channels first, which no name tells.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsharp.networks.network import Network

SUFFIXES = (".safetensors", ".npz")
ORBAX = "_METADATA"  # of every checkpoint of orbax that has a tree
VALUE = ".value"  # of every variable of NNX
STREAM = re.compile(r"(^|.*\.)rngs\..*(count|key)")
SILENT = "num_batches_tracked"
OTHER = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
MOST = 5  # names in a message


def load_weights(path: str | Path, network: Network) -> tuple[PyTree, PyTree]:
    """Parameters and statistics of a network from a .safetensors or .npz file, or of orbax.

    Of orbax it is the folder that StandardCheckpointer or PyTreeCheckpointer saved to. Raises
    ValueError, in one line, for what is no such file, and for arrays that are missing,
    surplus or of another shape, by their names.
    """
    path = Path(path)
    arrays = read(path)
    try:
        like = places_of(network)
        params, stats = ({joined(at) for at, _ in leaves_of((tree,))} for tree in like)
        if params & stats:
            raise ValueError(
                f"{listed(sorted(params & stats))} is a parameter and a statistic of the network, "
                "which no name in a file tells apart; give the arrays of both to place_weights"
            )
        return placed(arrays, like, dict(network.transposed))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def place_weights(network: Network, params: PyTree, stats: PyTree) -> tuple[PyTree, PyTree]:
    """Nested dictionaries of arrays, as of `runs.load_parameters`, in the places of a network.

    Raises ValueError as `load_weights` does.
    """
    found = []
    for tree, place in zip((params, stats), places_of(network), strict=True):
        arrays = {joined(path): np.asarray(leaf) for path, leaf in leaves_of((tree,))}
        found += placed(arrays, (place,), dict(network.transposed))
    return tuple(found)


def leaves_of(tree: PyTree) -> list[tuple[tuple, Any]]:
    """The leaves of a tree, each with its path."""
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def places_of(network: Network) -> tuple[PyTree, PyTree]:
    """Shapes of the parameters and statistics of a network."""
    return jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))


def joined(path: tuple) -> str:
    """Name of a leaf of (params, stats), or of one of them in a tuple, without its place there."""
    return jax.tree_util.keystr(path[1:], simple=True, separator=".")


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, or of a folder of orbax, by name."""
    valid = f"valid are {', '.join(SUFFIXES)} and folders of orbax"
    if path.is_dir() and not (path / ORBAX).is_file():
        inside = sorted(str(file.parent) for file in path.glob(f"*/{ORBAX}"))
        inside += sorted(str(file.parent) for file in path.glob(f"*/*/{ORBAX}"))
        hint = f"those in it are {listed(inside)}" if inside else valid
        raise ValueError(f"{path} is no checkpoint of orbax; {hint}")
    if not path.is_dir() and (not path.is_file() or path.suffix not in SUFFIXES):
        raise ValueError(f"{path} is no file of parameters; {valid}")
    try:
        if path.is_dir():
            return read_orbax(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        from safetensors.numpy import load_file

        return load_file(path)
    except ModuleNotFoundError as error:
        needs = error.name.partition(".")[0]
        raise ValueError(f"{path} needs {needs}: pip install 'jaxsharp[weights]'") from None
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read: {said}") from None


def read_orbax(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint of orbax by name, on the host, wherever they were saved from."""
    import orbax.checkpoint as ocp

    checkpointer = ocp.PyTreeCheckpointer()
    tree = checkpointer.metadata(path.resolve()).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    found = checkpointer.restore(path.resolve(), restore_args=as_numpy)
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    arrays = {
        jax.tree_util.keystr(place, simple=True, separator="."): np.asarray(leaf)
        for place, leaf in leaves
    }
    if all(name.endswith(VALUE) for name in arrays):
        arrays = {name.removesuffix(VALUE): array for name, array in arrays.items()}
    return {name: array for name, array in arrays.items() if not STREAM.fullmatch(name)}


def placed(
    arrays: dict[str, np.ndarray], like: tuple[PyTree, ...], transposed: dict[str, bool]
) -> tuple[PyTree, ...]:
    """Arrays in the places of (params, stats), by name, shape and type."""
    places, structure = jax.tree_util.tree_flatten_with_path(like)
    arrays = {name: array for name, array in arrays.items() if not name.endswith(SILENT)}
    names = [joined(path) for path, _ in places]
    prefix = shared_prefix(arrays, names)
    found = {name.replace("/", ".").removeprefix(prefix): name for name in arrays}
    leaves, missing, misshaped, odd, used = [], [], [], [], set()
    for name, (_, leaf) in zip(names, places, strict=True):
        source, array = candidate(name, found, arrays, transposed)
        if source is None:
            missing.append(name)
        elif array.shape != leaf.shape:
            misshaped.append(f"{source} of {arrays[source].shape} for {name} of {leaf.shape}")
        elif kind_of(array.dtype) != kind_of(leaf.dtype):
            odd.append(f"{source} of {array.dtype} for {name} of {leaf.dtype}")
        else:
            with np.errstate(over="ignore"):
                leaves.append(np.asarray(array, leaf.dtype))
            if (np.isfinite(array) & ~np.isfinite(leaves[-1])).any():
                odd.append(f"{source} has values beyond {leaf.dtype}")
        used.add(source)
    surplus = [name for name in arrays if name not in used]
    wrong = {"missing": missing, "of another shape": misshaped, "of another type": odd}
    wrong["surplus"] = surplus
    if any(wrong.values()):
        texts = [f"{what}: {listed(names)}" for what, names in wrong.items() if names]
        raise ValueError(f"does not fit the network; {'; '.join(texts)}")
    return jax.tree.unflatten(structure, leaves)


def candidate(
    name: str,
    found: dict[str, str],
    arrays: dict[str, np.ndarray],
    transposed: dict[str, bool],
) -> tuple[str | None, np.ndarray | None]:
    """The name in a file of what belongs to a place, and the array as the place has its axes."""
    if name in found:
        return found[name], arrays[found[name]]
    *layer, last = name.split(".")
    other = ".".join([*(part for part in layer if part != "batch_stats"), OTHER.get(last, last)])
    if other not in found:
        return None, None
    source = found[other]
    array = arrays[source]
    if last == "kernel" and array.ndim == 2:
        array = array.T
    elif last == "kernel" and array.ndim > 2:
        array = np.moveaxis(array, (0, 1), (-1, -2))
        if transposed.get(name) is False:
            array = np.flip(array, range(array.ndim - 2)).swapaxes(-1, -2)
    return source, array


def kind_of(dtype: Any) -> Any:
    """Real numbers, integers or truth values, of any size; another type itself."""
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), dtype)


def shared_prefix(arrays: Iterable[str], names: list[str]) -> str:
    """What all names of a file begin with, and no name of the network does, up to a dot.

    Or ``params.``, where all others begin as the network's statistics do.
    """
    firsts = {name.replace("/", ".").partition(".")[0] for name in arrays}
    own = {name.partition(".")[0] for name in names}
    foreign = firsts - own
    alone = len(firsts) == len(foreign) == 1
    return f"{min(foreign)}." if alone or foreign == {"params"} else ""


def listed(names: list[str]) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
