"""What the page on the edge of stability says is what its tables have."""

import re

import pandas as pd

from tests.test_results import RESULTS


def test_the_edge_of_stability():
    folder = RESULTS / "edge_of_stability"
    text = re.sub(r"\s+", " ", (folder / "README.md").read_text())
    for case in ("gradient-descent-0.02", "heavy-ball-0.03", "adam-0.0004", "sam-0.02"):
        table = pd.read_csv(folder / f"{case}.csv")
        ratio = table["eigenvalue"] / table["edge"]
        at = ratio[ratio.gt(0.9).idxmax() :]
        low, middle, high = at.quantile([0.05, 0.5, 0.95])
        step = table["step"][at.index[0]]
        assert f"| {step} | {len(at)} | {middle:.2f} [{low:.2f}, {high:.2f}] |" in text
        assert (table["residual"] < 0.01 * table["eigenvalue"]).all()
    for case in ("minibatch-8192-0.05", "momentum-8192-0.005"):
        table = pd.read_csv(folder / f"{case}.csv")
        ratio = table["batch_sharpness"] / table["edge"]
        at = ratio[ratio.gt(0.9).idxmax() :]
        low, middle, high = at.quantile([0.05, 0.5, 0.95])
        step = table["step"][at.index[0]]
        said = f"| {step} | {len(at)} | batch sharpness {middle:.2f} [{low:.2f}, {high:.2f}] |"
        assert said in text and f"{table['eigenvalue'].iloc[-1]:.1f}" in text
    for case in (
        "minibatch-0.02",
        "minibatch-0.05",
        "minibatch-8192-0.02",
        "momentum-large-8192-0.03",
    ):
        table = pd.read_csv(folder / f"{case}.csv")
        most = (table["batch_sharpness"] / table["edge"]).max()
        last = table.iloc[-1]
        ends = f"{last['eigenvalue']:.1f} and {last['batch_sharpness']:.1f}"
        assert f"batch sharpness at most {most:.2f}" in text and (ends in text) != ("8192" in case)
