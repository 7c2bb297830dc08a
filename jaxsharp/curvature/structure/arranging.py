"""Operations that put numbers in other places, run on arrays of labels in the place of values."""

import numpy as np

from jaxsharp.curvature.structure.ties import Labels


def arranged(name: str, arrays: list[Labels], params: dict) -> list[Labels] | None:
    """Outputs of an operation on labels; None for one that is not known here."""
    if name == "pad":
        return _padded(*arrays, params["padding_config"])
    if name not in _ARRANGED:
        return None
    found = _ARRANGED[name](*arrays, params)
    return found if isinstance(found, list) else [found]


def _padded(x, value, config):
    if any(low < 0 or high < 0 for low, high, _ in config):
        return None
    steps = [inner + 1 for *_, inner in config]
    spans = [max(0, (n - 1) * step + 1) for n, step in zip(x.shape, steps, strict=True)]
    shape = [low + span + high for (low, high, _), span in zip(config, spans, strict=True)]
    out = np.full(shape, value)
    at = zip(config, spans, steps, strict=True)
    out[tuple(slice(low, low + span, step) for (low, *_), span, step in at)] = x
    return [out]


def _broadcast(x, params):
    shape, places = params["shape"], params["broadcast_dimensions"]
    wide = [1] * len(shape)
    for size, place in zip(x.shape, places, strict=True):
        wide[place] = size
    return np.broadcast_to(x.reshape(wide), shape)


def _sliced(x, params):
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, starts, limits, strides))]


def _split(x, params):
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


_ARRANGED = {
    "reshape": lambda x, params: x.reshape(params["new_sizes"]),
    "transpose": lambda x, params: x.transpose(params["permutation"]),
    "squeeze": lambda x, params: x.squeeze(tuple(params["dimensions"])),
    "expand_dims": lambda x, params: np.expand_dims(x, tuple(params["dimensions"])),
    "rev": lambda x, params: np.flip(x, tuple(params["dimensions"])),
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "split": _split,
    "tile": lambda x, params: np.tile(x, params["reps"]),
    "stack": lambda *xs: np.stack(xs[:-1], xs[-1]["axis"]),
    "unstack": lambda x, params: list(np.moveaxis(x, params["axis"], 0)),
    "concatenate": lambda *xs: np.concatenate(xs[:-1], xs[-1]["dimension"]),
}
