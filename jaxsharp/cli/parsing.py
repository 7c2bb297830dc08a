"""Arguments of a command: bound to its function, or refused in one line.

tyro parses, and prints what it refuses as a box of five to twelve lines; here that becomes one.
"""

import contextlib
import difflib
import functools
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import tyro

EDGES = "│| "
RULE = re.compile(r"[╭╰+].*[╮╯+]$|[─-]+$")
KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}


class Beside(NamedTuple):
    """The command whose options stand on the other side of --, "before" or "after" it."""

    prog: str
    function: Callable
    where: str


def bind(
    function: Callable, prog: str, arguments: list[str], beside: Beside | None = None
) -> Callable[[], None]:
    """The function with the arguments of its command line; ValueError if they do not fit it."""

    @functools.wraps(function)
    def bound(*values, **named):
        return functools.partial(function, *values, **named)

    help_of = functools.cache(lambda: help_text(bound, prog))
    arguments = spelled_none([at_home(argument) for argument in arguments], help_of)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(bound, prog=prog, args=arguments)
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise ValueError(one_line(box.getvalue(), prog, arguments, help_of, beside)) from None


def naming(valid: Iterable[str]):
    """Says in the help of an option which names it takes, beside its default."""
    names = ", ".join(valid)
    return tyro.conf.arg(help_behavior_hint=lambda default: f"({names}; default: {default})")


def at_home(argument: str) -> str:
    """An argument that begins with a home directory, as in ~/runs or --out=~/runs, spelled out.

    Raises ValueError for the home of a user who is not there; a shell leaves that as it is.
    """
    option, equals, value = argument.rpartition("=")
    found = os.path.expanduser(value)
    if found.startswith("~"):
        raise ValueError(f"{value} begins with the home directory of a user who does not exist")
    return option + equals + found


def help_text(function: Callable, prog: str) -> str:
    """What --help prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(function, prog=prog, args=["--help"])
    return text.getvalue()


def spelled_none(arguments: list[str], help_of: Callable[[], str]) -> list[str]:
    """The arguments with "None" for "none" and "NONE" where an option takes None."""

    def spelled(option: str, value: str) -> str:
        takes = value.lower() == "none" and re.search(rf"{re.escape(option)} {{None}}", help_of())
        return "None" if takes else value

    found = list(arguments)
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option.startswith("--") and equals:
            found[i] = f"{option}={spelled(option, value)}"
        elif i and arguments[i - 1].startswith("--"):
            found[i] = spelled(arguments[i - 1], argument)
    return found


def one_line(
    box: str,
    prog: str,
    arguments: list[str],
    help_of: Callable[[], str],
    beside: Beside | None = None,
) -> str:
    """What a box of tyro says, in one line: the option as the user typed it, and what is valid."""
    lines = [line.strip(EDGES) for line in box.splitlines()]
    text = " ".join(line for line in lines if line and not RULE.match(line))
    hint = f"{prog} --help lists the options"
    if match := re.search(r"Unrecognized options?: (\S+)", text):
        token = match[1].rstrip(",").partition("=")[0]
        if not token.startswith("-"):
            return f"unexpected argument {token!r}; {hint}"
        return unknown(token, options_in(help_of()), beside, hint)
    if match := re.search(r"Error parsing (--[a-z-]+)", text):
        kind = re.search(rf"{match[1]} (\S+)", text.partition("Argument helptext:")[2])
        given = [(o, v) for o, v in pairs(arguments) if o.replace("_", "-") == match[1]]
        if kind and given:
            (option, value), *_ = given
            valid = " or ".join(KINDS.get(k, k.strip("{}")) for k in kind[1].split("|"))
            return f"{option} is {value!r}; it must be {valid}"
    if match := re.search(r"Missing value for argument '(\S+?)'", text):
        return f"{match[1].partition('/')[0]} needs a value; {hint}"
    if match := re.search(r"Missing from .+?: (.+?) (\S.*?) ?\(required\)", text):
        return f"{prog} needs {match[1]} {match[2]}".rstrip(". ")
    return text.partition(" For full helptext")[0]


def unknown(token: str, options: list[str], beside: Beside | None, hint: str) -> str:
    """What is said of an option that is not one of ``options``: whose it is, or the closest."""
    others = [] if beside is None else options_in(help_text(beside.function, beside.prog))
    if token.replace("_", "-") in others:
        return f"{token} is an option of {beside.prog}; those stand {beside.where} --"
    closest = [option for option in options if initials(option) == token.strip("-")]
    closest += difflib.get_close_matches(token, [*options, *others], n=1)
    if not closest:
        return f"unknown option {token}; {hint}"
    side = "" if closest[0] in options else f" of {beside.prog}, {beside.where} --"
    return f"unknown option {token}; the closest is {closest[0]}{side}"


def options_in(text: str) -> list[str]:
    """The options that a help lists, not those of its examples."""
    return re.findall(r"^\W*(--[a-z][a-z-]*)", text, re.M)


def initials(option: str) -> str:
    """The letters lr of --learning-rate."""
    return "".join(word[0] for word in option.strip("-").split("-"))


def pairs(arguments: list[str]) -> list[tuple[str, str]]:
    """Options with their values, last first, for both "--a b" and "--a=b"."""
    split = [tuple(argument.split("=", 1)) for argument in arguments]
    joined = [found for found in split if len(found) == 2]
    return (joined + list(itertools.pairwise(arguments)))[::-1]
