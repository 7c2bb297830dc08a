"""Kills, damaged files, full disks and rival processes: does a study end with the same tables?

    python experiments/benchmarks/faults.py --out DIR

Every try starts the command line on a small study of the digits, does one fault to it at a random
moment after its folder appears, and runs the same command again. Its tables must be those of an
uninterrupted run, byte for byte. About half an hour on two cores; `--smoke` tries everything twice
on a smaller study. A try is repeated by `--faults NAME --seed SEED --tries 1`, except that moments
fall where the machine's speed lets them.
"""

import json
import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attempts
import pandas as pd
import studies
import tables
import tyro

from jaxsharp.studies import interrupts

TRIES = {
    "kill": 50,
    "damage": 50,
    "full_disk": 20,
    "no_permission": 20,
    "divergence": 20,
    "diverging_study": 2,
    "rivals": 20,
    "interrupt": 20,
    "terminate": 20,
    "hang_up": 20,
    "early": 50,
    "late": 50,
}


def faults(
    *,
    out: Path = Path("runs/benchmarks-faults"),
    faults: tuple[str, ...] = tuple(TRIES),
    seed: int = 0,
    tries: int | None = None,
    jobs: int = 2,
    smoke: bool = False,
) -> None:
    """Try the faults and count how they end.

    Args:
        out: Folder of the tables.
        faults: Which ones.
        seed: Seed of the first try of each; those after it have the next ones.
        tries: Tries of each.
        jobs: Tries at a time.
        smoke: A smaller study, two tries of each.
    """
    if unknown := set(faults) - set(TRIES):
        sys.exit(f"unknown fault {', '.join(sorted(unknown))}; valid are {', '.join(TRIES)}")
    hear_signals()
    counts = {name: tries or (2 if smoke else TRIES[name]) for name in faults}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        place = studies.make_place(Path(folder), studies.SMOKE if smoke else studies.STUDY)
        chosen = [(name, seed + i) for name, count in counts.items() for i in range(count)]
        with ThreadPoolExecutor(jobs) as pool:
            endings = list(pool.map(lambda pair: ending(place, *pair), chosen))
    columns = ["fault", "seed", "as_expected", "ending"]
    table = pd.DataFrame(
        [(*pair, *end) for pair, end in zip(chosen, endings, strict=True)], columns=columns
    )
    command = f"python experiments/benchmarks/faults.py --seed {seed}{' --smoke' * smoke}"
    command += f" --faults {' '.join(faults)}" * (set(faults) != set(TRIES))
    command += f" --tries {tries}" * (tries is not None)
    write(out, table, {"command": command, "study": " ".join(place.arguments)})
    print((out / "README.md").read_text())
    if (table["as_expected"] == "no").any():
        sys.exit("not every fault ended as expected")


def hear_signals() -> None:
    """Ignore no signal that nohup or a shell ignores: started processes would ignore it too."""
    for number in interrupts.SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def ending(place: studies.Place, name: str, seed: int) -> tuple[str, str]:
    """Whether one try ended as expected (yes, no, or "" for one not made), and how."""
    out = place.folder / f"{name}-{seed}" / "study"
    try:
        out.parent.mkdir()
        found = "yes", attempts.ATTEMPTS[name](place, out, seed)
    except attempts.Skipped as reason:
        found = "", str(reason)
    except studies.Unexpected as failure:
        found = "no", str(failure).replace(str(out), "OUT")
    attempts.remove(out.parent)
    print(f"{name}, seed {seed}: {found[1]}", flush=True)
    return found


def write(out: Path, table: pd.DataFrame, options: dict) -> None:
    """Write tries.csv, counts.csv, config.json and README.md."""
    out.mkdir(parents=True, exist_ok=True)
    config = tables.configuration(options)
    rows = []
    for name, part in table.groupby("fault", sort=False):
        made = part[part["as_expected"] != ""]
        as_expected = (made["as_expected"] == "yes").sum()
        ends = Counter(part["ending"][part["as_expected"] != "no"])
        ends = "; ".join(f"{end}: {count}" for end, count in sorted(ends.items()))
        rows.append((name, len(made), as_expected, ends))
    counts = pd.DataFrame(rows, columns=["fault", "tries", "as_expected", "endings"])
    table.to_csv(out / "tries.csv", index=False)
    counts.to_csv(out / "counts.csv", index=False)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "README.md").write_text(page(table, counts, config))


def page(table: pd.DataFrame, counts: pd.DataFrame, config: dict) -> str:
    """The counts, and every ending that was not expected with the seed of its try."""
    what = {name: attempt.__doc__.split("\n")[0] for name, attempt in attempts.ATTEMPTS.items()}
    lines = [
        [row.fault, what[row.fault], row.tries, row.as_expected, row.endings]
        for row in counts.itertuples()
    ]
    columns = ["fault", "what is done, and expected", "tries", "as expected", "endings"]
    text = f"""# Faults

    {config["command"]}

The study is `jaxsharp study {config["study"]}`; "same tables" are {", ".join(studies.TABLES)}
that equal those of an uninterrupted run byte for byte.

{tables.markdown(columns, lines)}
"""
    unexpected = table[table["as_expected"] == "no"]
    for row in unexpected.itertuples():
        text += f"- not expected: {row.fault}, seed {row.seed}: {row.ending}\n"
    return text if len(unexpected) else text + "Every try ended as expected.\n"


if __name__ == "__main__":
    tyro.cli(faults)
