"""The settings that a grid varies, and their values."""

from dataclasses import replace

from jaxsharp.core.choices import shown
from jaxsharp.runs.config import SHORT_NAMES, Settings

Value = int | float | str  # of a setting that is varied


def check_axis_name(name: str) -> None:
    """Raise ValueError for what no grid varies."""
    if name not in SHORT_NAMES:
        raise ValueError(f"cannot vary {shown(name)}; valid are {', '.join(SHORT_NAMES)}")


def check_axis(name: str, values: tuple[Value, ...], settings: Settings) -> None:
    """Raise ValueError unless a grid can give a setting these values, each once."""
    check_axis_name(name)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"vary has {name} {shown(values)}; it must have values, each once")
    for value in values:
        if name == "batch_size" and not isinstance(value, int):
            raise ValueError(f"vary has batch_size {value}; it must be a whole number")
        if isinstance(value, str) != (name == "average"):
            what = "a name" if name == "average" else "a number"
            raise ValueError(f"vary has {name} {shown(value)}; it must be {what}")
        replace(settings, **{name: value}).check()


def parse_vary(texts: tuple[str, ...], settings: Settings) -> dict[str, tuple[Value, ...]]:
    """The axes of a grid from texts like learning_rate=0.1,0.01; ValueError for one that is none.

    Every value must be one that ``settings`` may have.
    """
    vary: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        check_axis_name(name)
        if name in vary:
            raise ValueError(f"vary names {name} twice; give all its values at once")
        kind = {"batch_size": int, "average": str}.get(name, float)
        try:
            found = tuple(dict.fromkeys(kind(value) for value in values.split(",")))
        except ValueError:
            raise ValueError(
                f"vary is {text!r}; it must be {name}=VALUE,VALUE with numbers ({kind.__name__})"
            ) from None
        check_axis(name, found, settings)
        vary[name] = found
    return vary
