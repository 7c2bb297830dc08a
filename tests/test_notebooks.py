"""Notebooks: scripts run in a small form, and what is committed beside them was made of them."""

import json
import re
import tempfile

import pytest

from tests.test_layout import PACKAGE

FOLDER = PACKAGE.parent / "experiments" / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
SMALL = {
    "training_sample": "dataset, model, optimizer = 'digits', 'small_mlp', 'sgd'\n"
    "train_size, epochs, loss_below = 150, 2, 0.1",
    "data_analysis": "names, rounds = ['digits'], 99",
    "own_network": "num_points, epochs, seeds = 120, 2, 2\nlearning_rates = [0.1, 0.2]",
}


def cells(script):
    """Kind and source of every cell of a script: text without its comment signs, magics as such."""
    found = []
    for part in re.split(r"^# %%", script, flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        markdown = "[markdown]" in head
        source = re.sub(r"^# ?", "", body, flags=re.M) if markdown else body
        source = source if markdown else re.sub(r"^# (?=%\w)", "", source, flags=re.M)
        found.append(("markdown" if markdown else "code", source.strip()))
    return found


def named(path):
    return path.stem


def test_there_are_three():
    assert [named(path) for path in SCRIPTS] == sorted(SMALL)


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_a_notebook_has_the_cells_of_its_script_and_was_run(path):
    text = path.with_suffix(".ipynb").read_text()
    found = json.loads(text)["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in found]
    assert sources == cells(path.read_text())
    code = [cell for cell in found if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [out for cell in code for out in cell["outputs"]]
    assert {out["output_type"] for out in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [out for out in outputs if out.get("name") == "stderr"]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert len(text) < 300_000
    # Figures are in base64, where a slash may be anywhere.
    plain = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"(?:^|[\s\"'(=])(?:/[\w.-]+){2,}|[A-Z]:\\", plain)


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_a_script_runs_in_its_small_form(path, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("MPLBACKEND", "agg")
    script = path.read_text()
    pattern = r'(# %% tags=\["parameters"\]\n).*?(?=\n\n# %%)'
    small, replaced = re.subn(pattern, lambda m: m[1] + SMALL[path.stem], script, flags=re.S)
    assert replaced == 1 and small != script
    exec(compile(small, str(path), "exec"), {"__name__": path.stem})
