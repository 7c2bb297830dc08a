"""Names and numbers that a user or a file gives: checked, or refused in one line.

The line says which field has which value, and what would be valid.
"""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

Record = TypeVar("Record")
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text of one line",
    tuple: "a list",
    dict: "an object",
    type(None): "null",
}
MOST = 2**53  # beyond, JSON's numbers are no longer whole
LONGEST = 1000
MOST_NAMED = 20  # of valid names in a line
IGNORED = -100  # the label of a token that does not count, as PyTorch's ignore_index has it
LARGEST = 2**31 - 1  # what is counted on devices is counted in 32 bits


def shown(value: Any) -> str:
    """A value as a message may have it, wherever it comes from: one short line of ASCII."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def short(value: Any) -> str:
    """The value of a setting in a name or a figure: six digits of a number, a text as it is."""
    return value if isinstance(value, str) else f"{value:g}"


def counted(num: Any, noun: str) -> str:
    """A number of things in words, as in 1 run, 2 runs."""
    return f"{num} {noun}{'' if num == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """Names with commas between them, of many the first and how many more there are."""
    names = list(names)
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def known(kind: str, name: str, valid: Iterable[str]) -> str:
    """The name itself, or ValueError with the valid ones, the closest first."""
    valid = list(valid)
    if name in valid:
        return name
    order = difflib.get_close_matches(name[:LONGEST], valid, n=len(valid), cutoff=0.0)
    raise ValueError(f"unknown {kind} {shown(name)}; valid are {listed(order)}")


def plain(kind: str, name: str) -> str:
    """The name itself, or ValueError for one that cannot be that of a data set or a network."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", name, re.ASCII):
        raise ValueError(
            f"{kind} is {shown(name)}; it must be a name of letters, digits and . + - _"
        )
    return name


def as_plain(text: str) -> str:
    """The name of a data set or a network that `plain` takes, made of a file's or a folder's."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-.+_")[:100] or "own"


def hashable(what: str, function: Any) -> Any:
    """The function itself, or ValueError for one without a hash, by which programs are known."""
    try:
        hash(function)
    except TypeError as reason:
        raise ValueError(
            f"{what} cannot be hashed ({reason}), and programs are known by it; give a function, "
            "or an object whose class has __hash__, as of a frozen dataclass"
        ) from None
    return function


def each_once(kind: str, names: tuple[str, ...], valid: Iterable[str] | None = None) -> None:
    """Raise ValueError unless there are names, each once, and each of the valid ones, or plain."""
    for name in names:
        plain(kind, name) if valid is None else known(kind, name, valid)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{kind}s are {shown(names)}; they must be one or more, each once")


def construct(cls: type[Record], found: Any, at: str = "") -> Record:
    """A dataclass from what a file holds, by the types of its fields; ranges are for `checked`.

    Raises ValueError for what is no object, a field that is unknown, or missing and without a
    default, and a value of another type: truth values are no numbers, NaN and infinity no values.
    ``at`` is what the field is called in which the object stands.
    """
    prefix = f"{at}." if at else ""
    if not isinstance(found, dict):
        raise ValueError(f"{at or cls.__name__} is {shown(found)}; it must be {WORDS[dict]}")
    kinds, fields = get_type_hints(cls), {field.name: field for field in dataclasses.fields(cls)}
    for name in found:
        if name not in fields:
            raise ValueError(f"{shown(prefix + name)} is no field; valid are {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in found:
            values[name] = converted(found[name], kinds[name], prefix + name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{prefix + name} is missing")
    return cls(**values)


def converted(found: Any, kind: Any, at: str) -> Any:
    """A value of the field ``at`` as its type has it; ValueError for one of another type."""
    if dataclasses.is_dataclass(kind):
        return construct(kind, found, at)
    options = get_args(kind) if get_origin(kind) is types.UnionType else (kind,)
    for option in options:
        whole, parts = get_origin(option) or option, get_args(option)
        if whole is tuple and isinstance(found, list):
            return tuple(converted(value, parts[0], at) for value in found)
        if whole is dict and isinstance(found, dict):
            return {k: converted(v, parts[1], f"{at}[{shown(k)}]") for k, v in found.items()}
        if is_a(found, whole):
            return found
    what = " or ".join(WORDS[get_origin(option) or option] for option in options)
    raise ValueError(f"{at} is {shown(found)}; it must be {what}")


def is_a(found: Any, kind: type) -> bool:
    """Whether a single value from a file may stand for one of a type."""
    if kind is bool:
        return type(found) is bool
    if kind is int:
        return type(found) is int and abs(found) <= MOST
    if kind is float:
        return (type(found) is float and math.isfinite(found)) or is_a(found, int)
    if kind is str:
        return isinstance(found, str) and len(found) <= LONGEST and found.isprintable()
    return kind is type(None) and found is None


def known_list(
    kind: str, names: str, valid: Iterable[str], read: Callable[[str], str] = str
) -> tuple[str, ...]:
    """Names separated by commas, each once, as ``read`` writes them.

    Of valid names that have commas themselves the longest counts.
    """
    valid, pieces, found = dict.fromkeys(valid), names.split(","), {}
    while pieces:
        longest = (read(",".join(pieces[:n]).strip()) for n in range(len(pieces), 1, -1))
        name = next((name for name in longest if name in valid), read(pieces[0].strip()))
        pieces = pieces[name.count(",") + 1 :]
        if name:
            found[name] = None
    if not found:
        raise ValueError(f"no {kind} is named; valid are {listed(valid)}")
    return tuple(known(kind, name, valid) for name in found)


def checked(settings: Any) -> Any:
    """Settings or Options that passed their own check."""
    settings.check()
    return settings


def at_least_one(name: str, value: int) -> int:
    """The value itself, or ValueError; more than a device can count is no number of anything."""
    if not 1 <= value <= LARGEST:
        valid = "at least 1" if value < 1 else f"at most {LARGEST}"
        raise ValueError(f"{name} is {shown(value)}; it must be {valid}")
    return value


def width_of(text: str) -> int | None:
    """Members in a program: a number, or None for "auto"."""
    if text == "auto":
        return None
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise ValueError(f"width is {shown(text)}; it must be auto or a number from 1")
    return int(text)


def known_classes(labels: Any, shape: tuple[int, ...], num_classes: int) -> jax.Array | None:
    """None for integers from 0 to num_classes - 1 of a shape; ValueError for anything else.

    Of traced labels, whose values are not known: 1 for each that is a class, NaN for the others.
    """
    dtype, found = jnp.result_type(labels), jnp.shape(labels)
    if not jnp.issubdtype(dtype, jnp.integer) or found != tuple(shape):
        raise ValueError(
            f"labels are {dtype} of shape {found}; they must be integers of shape {tuple(shape)}, "
            "the index of the class of each example, not one-hot"
        )
    if isinstance(labels, jax.core.Tracer):
        return jnp.where((labels >= 0) & (labels < num_classes), 1.0, jnp.nan)
    if isinstance(labels, jax.Array) and not labels.is_fully_addressable:
        return None
    values = np.asarray(labels)
    wrong = values[(values < 0) | (values >= num_classes)]
    if wrong.size:
        raise ValueError(f"labels hold {wrong[0]}; the classes are 0 to {num_classes - 1}")
    return None
