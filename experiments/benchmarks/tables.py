"""The benchmark's files: a row a contender, the ratios against the targets, the configuration."""

import importlib.metadata
import itertools
import json
import platform
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from measuring import Row, Work

PACKAGES = (
    *("jaxsharp", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "torch", "PyHessian"),
    *("curvlinops-for-pytorch", "hessian-eigenthings", "matfree", "traceax", "lineax"),
    *("loss-landscapes", "pylandscape"),
)


def write(
    out: Path, rows: list[Row], works: list[Work], options: dict, title: str, notes: str
) -> None:
    """Write timings.csv, targets.csv, config.json, and README.md with a title and notes."""
    out.mkdir(parents=True, exist_ok=True)
    timings = pd.DataFrame([_timing(row) for row in rows])
    targets = pd.DataFrame(_targets(rows, works))
    timings.to_csv(out / "timings.csv", index=False)
    targets.to_csv(out / "targets.csv", index=False)
    config = configuration(options)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "README.md").write_text(_page(title, timings, targets, config) + notes)


def wrong(rows: list[Row]) -> str:
    """What the run fails with if an error is above its work's tolerance; "" if none is."""
    found = [f"{row.work}, {row.contender}" for row in rows if "WRONG" in row.remark]
    return f"error above the tolerance: {'; '.join(found)}" if found else ""


def _timing(row: Row) -> dict:
    low, median, high = np.quantile(row.seconds, (0.25, 0.5, 0.75))
    return {
        "work": row.work,
        "contender": row.contender,
        "examples": row.examples,
        "products": row.products,
        "repeats": len(row.seconds),
        "median_s": median,
        "min_s": row.seconds.min(),
        "q25_s": low,
        "q75_s": high,
        "max_s": row.seconds.max(),
        "first_call_s": row.first,
        "memory_mib": row.memory / 2**20,
        "error": row.error,
        "remark": row.remark,
    }


def _targets(rows, works):
    """Rows of the targets whose contenders were all measured."""
    table = []
    for work in works:
        found = {row.contender: row for row in rows if row.work == work.name}
        for target in work.targets:
            if not set(target.names) <= set(found):
                continue
            values = target.value(*(found[name] for name in target.names))
            median = float(np.median(values))
            met = {"<=": median <= target.bound, ">=": median >= target.bound}.get(target.sense)
            met = None if np.isnan(median) else met
            table.append(
                {
                    "work": work.name,
                    "ratio": target.text,
                    "target": f"{target.sense} {target.bound:g}" if target.sense else "",
                    "median": median,
                    "min": float(np.min(values)),
                    "max": float(np.max(values)),
                    "met": {True: "yes", False: "no", None: ""}[met],
                }
            )
    return table


def configuration(options: dict) -> dict:
    """Options, machine and versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        **options,
        "processor": ", ".join(sorted(names)) or platform.machine(),
        "device": jax.devices()[0].device_kind,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _page(title, timings, targets, config) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in config["versions"].items() if v)
    head = f"""# {title}

    {config["command"]}

{config["cores"]} cores of {config["processor"]}, JAX on {config["device"]}; {versions}.

All contenders of a work take turns in one process, {config["repeats"]} rounds, on the same weights
and data, float32. Ratios are of times in the same round: median (smallest to largest).

"""
    columns = ["work", "ratio", "target", "measured", "met"]
    ratios = [
        [t.work, t.ratio, t.target, f"{t.median:.3g} ({t.min:.3g} to {t.max:.3g})", t.met]
        for t in targets.itertuples()
    ]
    page = head + markdown(columns, ratios)
    columns = "work,contender,examples,products,median s (quartiles),first call s,memory MiB,error"
    lines = [
        [
            *(t.work, t.contender, t.examples, _number(t.products)),
            f"{t.median_s:.3g} ({t.q25_s:.3g} to {t.q75_s:.3g})",
            *(f"{t.first_call_s:.3g}", _number(t.memory_mib), _number(t.error)),
        ]
        for t in timings.itertuples()
    ]
    filled = [any(cells) for cells in zip(*lines, strict=True)]
    lines = [list(itertools.compress(line, filled)) for line in lines]
    return page + "\n" + markdown(list(itertools.compress(columns.split(","), filled)), lines)


def _number(value) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.4g}"


def markdown(columns, lines) -> str:
    """A table in Markdown, its cells any values."""
    table = [columns, ["---"] * len(columns), *lines]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in table)
