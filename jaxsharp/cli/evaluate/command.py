"""The command that evaluates tables of runs: ours, or anybody's."""

from pathlib import Path

import tyro

from jaxsharp.analysis import evaluation
from jaxsharp.analysis.evaluation.at_losses import evaluate_at_losses
from jaxsharp.cli.evaluate.output import print_evaluation, tell_at_losses, write
from jaxsharp.cli.evaluate.registered import hypotheses_of, only_registered, registered
from jaxsharp.cli.evaluate.tables import (
    CHECKPOINTS,
    CONVERGED,
    HYPER,
    LOSS,
    SEED,
    check_one_row_a_run,
    gap_of,
    hyper_of,
    joined,
    measures_of,
    read_table,
    rows_where,
)
from jaxsharp.cli.output import make_console
from jaxsharp.core.choices import counted, known_list
from jaxsharp.runs import claims


def evaluate(
    table: tyro.conf.Positional[tuple[Path, ...]],
    *,
    measures: str | None = None,
    target: str | None = None,
    hyper: str | None = None,
    where: tuple[str, ...] = (),
    seed_column: str | None = None,
    own_seeds: bool = False,
    converged_column: str | None = None,
    loss_column: str | None = None,
    controls: str = "",
    unconverged: bool = False,
    noise: float = 0.0,
    confidence: float = 0.95,
    hypotheses: str | None = None,
    registered_only: bool = False,
    out: Path | None = None,
) -> None:
    """Say of each measure in tables of runs what it predicts, beside controls.

    jaxsharp evaluate runs/first

    jaxsharp evaluate mine.csv --measures norm,margin --target gap --hyper lr,width --out found

    jaxsharp evaluate runs/first --where sam=none optimizer=sgd,adam

    Args:
        table: Folders of studies, or CSV files with a line a run; several are joined.
        measures: Columns of measures, separated by commas; by default those of a study.
        target: Column to predict; by default the gap of a study.
        hyper: Columns of hyper-parameters, separated by commas; by default those a study varies.
        where: Rows that count, by values of columns, as in sam=none optimizer=sgd,adam.
        seed_column: Column of seeds; by default seed, where there is one.
        own_seeds: Runs of equal seeds share nothing: neither initial weights nor order of the data.
        converged_column: Column of true and false; by default converged, where there is one.
        loss_column: Column of the training loss; by default train_loss, where there is one.
        controls: More columns to show beside the measures, separated by commas.
        unconverged: Let runs enter that did not converge.
        noise: Differences of the target that are noise, for the worst environment.
        confidence: Confidence of the intervals.
        hypotheses: What is expected in tables of your own, as in norm:+:gap (measure, sign of
            Kendall's tau, target), separated by commas; a study has those that it registered.
        registered_only: Leave out runs of a study that are not of the grid that it registered.
        out: Folder for evaluation.csv, evaluation.md and evaluation.png.
    """
    if not table:
        raise ValueError("evaluate needs one or more studies, or CSV files")
    if out is not None:
        claims.check_outside(out / "evaluation.csv")
        if out.exists() and not out.is_dir():
            raise ValueError(f"out is {out}, which is a file; it must be a folder")
    kept = registered(table)
    tables, chosen = {path: read_table(path) for path in table}, ""
    if registered_only:
        tables, chosen = only_registered(kept, tables)
    every = joined(tables)
    runs = rows_where(every, where)
    stated, remarks = hypotheses_of(hypotheses, kept, {"where": where, "unconverged": unconverged})
    columns = list(map(str, runs.columns))
    named = lambda name, usual: name or (usual if usual in columns else None)  # noqa: E731
    listed = lambda names: known_list("column", names, columns)  # noqa: E731
    asked = {
        "measures": measures_of(runs) if measures is None else listed(measures),
        "target": target or gap_of(runs),
        "hyper": hyper_of(runs) if hyper is None else listed(hyper),
        "seed": None if own_seeds else named(seed_column, SEED),
        "loss": named(loss_column, LOSS),
        "controls": listed(controls) if controls else (),
        "noise": noise,
        "confidence": confidence,
    }
    converged = named(converged_column, CONVERGED)
    check_one_row_a_run(runs, None if unconverged else converged)
    found = evaluation.evaluate(
        runs, **asked, converged=converged, unconverged=unconverged, hypotheses=stated
    )
    at_losses = []
    if all((path / CHECKPOINTS).is_file() for path in table):
        tables = {path: read_table(path / CHECKPOINTS) for path in table}
        if registered_only:
            tables, _ = only_registered(kept, tables)
        rows = rows_where(joined(tables), where)
        keys = [name for name in (*HYPER, SEED) if name in rows]
        at_losses = evaluate_at_losses(rows, **asked, keys=keys)
    if where:
        note = f"{len(runs)} of {counted(len(every), 'row')} count with {' and '.join(where)}."
        found = found._replace(notes=(note, *found.notes))
    remarks = (chosen, *remarks) if chosen else remarks
    found = found._replace(notes=(*found.notes, *remarks))
    console = make_console()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write(out, found)
    print_evaluation(console, found)
    tell_at_losses(console, at_losses, out)
    if out is not None:
        console.print(f"{out}: evaluation.csv, evaluation.md, evaluation.png")
