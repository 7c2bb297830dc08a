"""The examples of the README and of the guides at the doors run and print what they say."""

import contextlib
import functools
import importlib
import inspect
import io
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.test_layout import FOLDERS, PACKAGE, listed

ROOT = PACKAGE.parent
GUIDES = [ROOT / "README.md", *sorted(PACKAGE.rglob("README.md"))]
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
# What follows these words is an error: it may be smaller on another machine, or somewhat larger.
ERRORS = r"(?:\+-|gap|residual) "
SLACK = 10
ROUNDING = 1e-12  # of duality gaps, which are solved for in float64


def examples(text):
    """Python blocks in order, each with the output that is promised below it, or None."""
    return re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.S)


@pytest.fixture
def strict(monkeypatch):
    """JAX's switches that users set, at their strictest.

    The guard of transfers is on in the public functions of the rooms alone: the examples
    themselves make arrays of JAX of NumPy's, and of numbers.
    """
    for folder in FOLDERS:
        room = importlib.import_module(".".join(folder.relative_to(ROOT).parts))
        for name in listed((folder / "__init__.py").read_text()):
            if inspect.isfunction(function := getattr(room, name)):
                monkeypatch.setattr(room, name, guarded(function))
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.enable_checks(True),
    ):
        yield


def guarded(function):
    """The function, as if in a loop in which nothing may move between host and device."""

    @functools.wraps(function)
    def call(*args, **named):
        with jax.transfer_guard("disallow"):
            return function(*args, **named)

    return call


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_print_what_the_guide_says(guide, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code, output in examples(guide.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(guide), "exec"), names)
        compare_texts(printed.getvalue(), output)


@pytest.mark.slow
def test_the_examples_of_the_readme_need_neither_assertions_nor_docstrings():
    found = examples((ROOT / "README.md").read_text())
    program = "\n".join(code for code, _ in found)
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    compare_texts(done.stdout, "".join(output for _, output in found))


def compare_texts(printed, promised):
    """The lines are those that are promised, but for numbers, which are compared."""
    lines, promised = (text.strip().splitlines() for text in (printed, promised))
    assert [re.sub(NUMBER, "#", line) for line in lines] == [
        re.sub(NUMBER, "#", line) for line in promised
    ]
    for line, promise in zip(lines, promised, strict=True):
        compare(line, promise)


def compare(line, promise):
    """Errors are as small as promised, other numbers as promised; estimates are near the truth."""
    for found, said in zip(errors(line), errors(promise), strict=True):
        assert found <= max(SLACK * said, ROUNDING), line
    found, said = (numbers(re.sub(ERRORS + NUMBER, "", x)) for x in (line, promise))
    np.testing.assert_allclose(found, said, rtol=1e-2, err_msg=line)
    if "true" in line:
        estimate, true = found[-2:]
        near = 5 * errors(line)[-1] if "+-" in line else 1e-3 * abs(true)
        assert abs(estimate - true) <= near, line


def numbers(text):
    return [float(x) for x in re.findall(NUMBER, text)]


def errors(line):
    return numbers(" ".join(re.findall(ERRORS + NUMBER, line)).replace("+-", ""))


def test_the_comparison_can_fail():
    promise = "trace 30.2 +- 0.6; true 31.8"
    compare(promise, promise)
    for line in ("trace 30.2 +- 0.6; true 33.0", "trace 29.0 +- 0.6; true 31.8"):
        with pytest.raises(AssertionError):
            compare(line, promise)
    with pytest.raises(AssertionError):
        compare("trace 30.2 +- 0.1; true 31.8", "trace 30.2 +- 0.1; true 31.8")
    with pytest.raises(AssertionError):
        compare("residual 3e-3", "residual 2e-4")


@pytest.mark.parametrize("folder", [f for f in FOLDERS if (f / "README.md").exists()], ids=str)
def test_a_guide_names_every_public_name(folder):
    text = (folder / "README.md").read_text()
    missing = [n for n in listed((folder / "__init__.py").read_text()) if f"{n}" not in text]
    assert missing == []


def test_the_readme_is_for_newcomers():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_links_lead_somewhere():
    for page in [*GUIDES, *ROOT.glob("results/**/README.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"
