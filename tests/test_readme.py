"""The README's example runs and prints what the README says."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text()
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


def test_the_example_prints_the_true_values_beside_the_estimates():
    (code, output) = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README", "exec"), {})
    lines = printed.getvalue().strip().splitlines()
    promised = output.strip().splitlines()
    assert [re.sub(NUMBER, "#", line) for line in lines] == [
        re.sub(NUMBER, "#", line) for line in promised
    ]
    for line, promise in zip(lines, promised, strict=True):
        found, said = ([float(n) for n in re.findall(NUMBER, text)] for text in (line, promise))
        estimate, true = found[0], found[-1]
        np.testing.assert_allclose(estimate, true, rtol=1e-3)
        np.testing.assert_allclose((estimate, true), (said[0], said[-1]), rtol=1e-3)
