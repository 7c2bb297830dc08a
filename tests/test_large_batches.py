"""What the page on large batches says is what its tables have."""

import pandas as pd

from jaxsharp.analysis import mean_interval
from tests.test_results import RESULTS, page


def test_large_batches_are_sharper_and_hardly_worse():
    text, runs = page("large_batches")
    folder, ledger = RESULTS / "large_batches", (RESULTS / "README.md").read_text()
    assert len(runs) == 10 and runs["converged"].all()
    for row in pd.read_csv(folder / "boxes-summary.csv").itertuples():
        mean = f"{float(f'{row.mean:.3g}'):g} +- {float(f'{row.deviation:.2g}'):g}"
        cells = [float(f"{x:.3g}") for x in (row.geometric_mean, row.low, row.high)]
        assert f"{mean} | {cells[0]:g} [{cells[1]:g}, {cells[2]:g}] |" in text
        assert row.measure != "keskar_sharpness" or mean in ledger
    boxes = pd.read_csv(folder / "boxes.csv").groupby(["measure", "box_eps", "batch_size"])["value"]
    ends = boxes.agg(["min", "max"]).unstack()
    assert (ends[("min", 200)] > ends[("max", 16)]).all() and len(ends) == 4
    for table in (runs, pd.read_csv(folder / "runs_before.csv")):
        gaps, accuracies = (
            table.set_index(["seed", "batch_size"])[x].unstack() for x in ("gap", "test_accuracy")
        )
        rise = mean_interval(gaps[200] - gaps[16])
        rise = f"{rise.mean:.4f} [{rise.low:.4f}, {rise.high:.4f}]"
        fall = mean_interval(accuracies[16] - accuracies[200])
        assert rise in text and ledger.count(rise) == 2
        assert f"{fall.mean:.4f} [{fall.low:.4f}, {fall.high:.4f}]" in text
