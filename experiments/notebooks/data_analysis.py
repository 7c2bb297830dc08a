# %% [markdown]
# # What all studies say together
#
# Every committed table of runs (`results/*/runs.csv`): sharpness against the gap, correlations
# within and across optimizers, with and without SAM, and what each measure predicts beside
# controls. Raw coefficients never stand alone: what the settings or the training loss explain is
# no prediction.

# %% tags=["parameters"]
names = None  # folders of results; None: all that have runs
rounds = 2000

# %%
# %matplotlib inline
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from jaxsharp import analysis

# %% [markdown]
# ## The tables
#
# One row a run, as `jaxsharp study` writes it, each data set by itself. Measures are the columns
# with an error beside them; a run counts if it converged, or if its study has no rule for that.
# Fewer than eight say nothing.

# %%
root = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "results" / "README.md").exists())
studies, axes, measures = {}, {}, {}
for file in sorted((root / "results").glob("*/runs.csv")):
    name, table = file.parent.name, pd.read_csv(file)
    if (names is None or name in names) and {"optimizer", "sam", "seed", "gap"} <= set(table):
        settings = json.loads((file.parent / "config.json").read_text())
        several = "dataset" in table and table["dataset"].nunique() > 1  # each by itself
        for dataset, runs in table.groupby("dataset") if several else [("", table)]:
            one = f"{name} {dataset}".strip()
            studies[one] = runs.reset_index(drop=True)
            axes[one] = ["optimizer", "sam", *settings.get("vary", {})]
            measures[one] = [m for m in runs if f"{m}_error" in runs and runs[m].notna().any()]
used = {name: len(analysis.usable(table, []).kept) for name, table in studies.items()}
pd.DataFrame({"runs": {name: len(table) for name, table in studies.items()}, "count": used})

# %% [markdown]
# ## Sharpness against the gap
#
# A panel a study: minimum sharpness of every run that counts, filled without a sharpness-aware
# variant, hollow with one.

# %%
drawn = [n for n in studies if used[n] >= 8 and "minimum_sharpness" in measures[n]]
optimizers = list(dict.fromkeys(o for name in drawn for o in studies[name]["optimizer"]))
colors = {optimizer: f"C{i % 10}" for i, optimizer in enumerate(optimizers)}
shapes = {optimizer: "os^DvP*X<>"[i % 10] for i, optimizer in enumerate(optimizers)}
shape = -(-len(drawn) // 3), min(len(drawn), 3)
size = 3.2 * shape[1], 3 * shape[0] + 0.4
figure, panels = plt.subplots(*shape, figsize=size, dpi=60, squeeze=False, layout="constrained")
for name, panel in zip(drawn, panels.ravel(), strict=False):
    kept = analysis.usable(studies[name], ["minimum_sharpness", "gap"]).kept
    for optimizer, part in kept.groupby("optimizer", sort=False):
        for hollow, points in part.groupby(part["sam"] != "none"):
            face = "none" if hollow else colors[optimizer]
            look = {"marker": shapes[optimizer], "facecolors": face, "s": 18}
            pairs = points["minimum_sharpness"], points["gap"]
            panel.scatter(*pairs, edgecolors=colors[optimizer], **look)
    panel.set(xscale="log", xlabel="minimum sharpness", title=name)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=4))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel("gap (training - test accuracy)")
for spare in panels.ravel()[len(drawn) :]:
    spare.remove()
keys = [Line2D([], [], ls="", marker=shapes[o], color=colors[o], label=o) for o in optimizers]
figure.legend(handles=keys, loc="outside lower center", ncols=3 * shape[1], fontsize=7)
plt.show()

# %% [markdown]
# ## Within and across optimizers, with and without SAM
#
# Kendall's tau with the gap. Across: over all pairs of runs. Within: over pairs of one optimizer.
# An interval needs eight groups; there are six optimizers at most, so that none is given.


# %%
def taus(runs, name, measure):
    """Coefficients of one measure in one part of a study."""
    found = analysis.correlation(runs, measure, "gap", ["optimizer"])
    return {"study": name, "across": found.raw.value, "within": found.within.value}


rows = []
for name in drawn:
    for part, runs in [("all", studies[name]), *studies[name].groupby("sam", sort=False)]:
        for measure in measures[name]:
            rows.append({**taus(runs, name, measure), "sam": part, "measure": measure})
table = pd.DataFrame(rows).pivot(index=["study", "measure"], columns="sam")
table.round(2)

# %% [markdown]
# ## What each measure predicts
#
# Raw tau over all runs with its interval, tau among runs that differ by the seed alone, tau given
# the training loss, and the verdict, which says what is left of the relation (`jaxsharp
# evaluate`).

# %%
rows = []
for name in drawn:
    found = analysis.evaluate(
        studies[name],
        measures=measures[name],
        target="gap",
        hyper=axes[name],
        seed="seed",
        converged="converged",
        columns=[],
        rounds=rounds,
    )
    rows.append(found.table[found.table["kind"] == "measure"].assign(study=name))
found = pd.concat(rows, ignore_index=True)
columns = ["study", "measure", "runs", "raw", "raw_low", "raw_high"]
found[[*columns, "within", "given_loss", "verdict"]].round(2)

# %%
figure, panel = plt.subplots(figsize=(5.5, 0.28 * len(found) + 1.2), dpi=70, layout="constrained")
places = -np.arange(len(found))
widths = [found["raw"] - found["raw_low"], found["raw_high"] - found["raw"]]
panel.errorbar(found["raw"], places, xerr=widths, fmt="o", label="raw, with 95 % interval")
panel.plot(
    found["given_loss"], places, "D", mfc="none", color="C1", label="given the training loss"
)
panel.plot(found["within"], places, "s", mfc="none", color="C2", label="equal settings")
panel.axvline(0, color="grey", lw=0.8)
panel.set_yticks(places, found["study"] + ": " + found["measure"].str.replace("_", " "))
panel.set(xlim=(-1, 1), xlabel="Kendall's tau with the gap")
figure.legend(loc="outside lower center", ncols=3, fontsize=7)
plt.show()
