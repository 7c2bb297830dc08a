"""The README's example runs and prints what the README says."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text()
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


def test_the_examples_print_the_true_values_beside_the_estimates():
    """The second goes on from the first; where an error is printed it says how close they are."""
    names = {}
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    for code, output in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README", "exec"), names)
        lines = printed.getvalue().strip().splitlines()
        promised = output.strip().splitlines()
        assert [re.sub(NUMBER, "#", line) for line in lines] == [
            re.sub(NUMBER, "#", line) for line in promised
        ]
        for line, promise in zip(lines, promised, strict=True):
            compare(*([float(n) for n in re.findall(NUMBER, x)] for x in (line, promise)), line)


def compare(found, said, line):
    estimate, true = found[0 if "share" not in line else 1], found[-1]
    if "+-" in line:
        np.testing.assert_allclose(found[-1], said[-1], rtol=1e-3, atol=1e-6)
        assert abs(estimate - true) <= 5 * found[-2]
    else:
        np.testing.assert_allclose(estimate, true, rtol=1e-3)
        np.testing.assert_allclose((estimate, true), (said[0], said[-1]), rtol=1e-3)
