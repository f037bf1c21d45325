"""``m3lung cohort``: check, split, cache and pull the patients a model is trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from dicom_node.cli.terminal import (
    EXIT_FAILED,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    complain,
    out,
    print_json,
    progress_bar,
    settings_source,
)

if TYPE_CHECKING:
    from training.cohort import Cohort, Split

__all__ = ["app", "register"]

app = typer.Typer(
    no_args_is_help=True,
    help="Cohorts: a CSV with the columns patient_id, series_path, label (healthy, covid19, h1n1, "
    "cap) and optionally slice_labels, truth_path.",
)

CohortArgument = Annotated[Path, typer.Argument(metavar="COHORT.csv", show_default=False)]
SplitOption = Annotated[
    Path | None,
    typer.Option("--split", help="Saved split. Default: split.csv beside the cohort, if there."),
]


@app.command("check")
def check(
    file: CohortArgument,
    split: SplitOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Find everything wrong with a cohort, with row numbers. Exit code 1 where training cannot go.

    Reads the headers of all series.
    """
    from training.cohort import check_cohort, read_split
    from training.cohort.table import Problem, parse_cohort
    from training.errors import CohortError

    settings = settings_source(config)()
    chosen, problems = None, []
    split_file = _split_file(file, split)
    if split_file is not None:
        try:
            chosen = read_split(split_file, parse_cohort(file)[0])
        except CohortError as error:
            problems.append(Problem(0, str(error)))
    with progress_bar(quiet=json) as progress:
        cohort, found = check_cohort(file, chosen, selection=settings.selection, progress=progress)
    problems += found
    counts = Counter(row.label.key for row in cohort.rows)
    if json:
        print_json(
            {
                "patients": dict(counts),
                "problems": [
                    {"row": one.row or None, "text": one.text, "fatal": one.fatal}
                    for one in problems
                ],
            }
        )
    else:
        for one in problems:
            where = f"row {one.row}: " if one.row else ""
            kind = "error" if one.fatal else "note"
            out.print(f"{kind}: {where}{one.text}", markup=False, highlight=False, soft_wrap=True)
        words = ", ".join(f"{count} {label}" for label, count in counts.items()) or "none"
        out.print(f"patients: {words}; problems: {len(problems)}", highlight=False)
    if any(one.fatal for one in problems):
        raise typer.Exit(EXIT_FAILED)


@app.command("split")
def split_(
    file: CohortArgument,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Default: split.csv beside the cohort.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same split.")] = 0,
    train: Annotated[float, typer.Option(min=0, max=1, help="Share that trains.")] = 0.7,
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share that validates.")] = 0.1,
) -> None:
    """Split a cohort by patient, each class in the same proportion; the rest tests."""
    from training.cohort import read_cohort, split_patients, write_split

    target = out_file or file.with_name("split.csv")
    if target.exists():
        _usage(f"{target} is there already; a split is made once")
    if train + validation > 1 + 1e-9:
        _usage("--train and --validation are more than 1 together")
    cohort = read_cohort(file)
    rest = max(0.0, 1 - train - validation)
    split = split_patients(cohort, seed, (train, validation, rest))
    write_split(target, cohort, split)
    out.print(_split_table(cohort, split))
    out.print(f"split in {target}", markup=False, highlight=False)


@app.command("cache")
def cache(
    cohort: Annotated[Path, typer.Option("--cohort", help="The cohort's CSV.")],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    split: SplitOption = None,
    input_size: Annotated[int, typer.Option(help="Rows and columns of the crops.")] = 512,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per CPU.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Decode a cohort once, as the node would see it.

    The same command finishes what was interrupted; OUT appears when it is whole.
    """
    from inference.lung_crop import CropParameters
    from training.cohort import (
        CohortCache,
        build_cache,
        read_cohort,
        read_split,
        split_patients,
        write_split,
    )

    if input_size < 32 or input_size % 32:
        _usage("--input-size is a multiple of 32")
    settings = settings_source(config)()
    table = read_cohort(cohort)
    split_file = _split_file(cohort, split)
    if split_file is None:
        split_file = cohort.with_name("split.csv")
        write_split(split_file, table, split_patients(table))
        out.print(f"split in {split_file}", markup=False, highlight=False)
    with progress_bar() as progress:
        build_cache(
            table,
            read_split(split_file, table),
            out_dir,
            CropParameters(input_size=input_size),
            selection=settings.selection,
            progress=progress,
            workers=workers,
        )
    made = CohortCache.open(out_dir)
    slices = sum(patient.count for patient in made.patients)
    out.print(
        f"{len(made.patients)} patients, {slices} slices with lung in {out_dir}",
        markup=False,
        highlight=False,
    )


@app.command("pull")
def pull(
    peer: Annotated[str, typer.Option(help="Name of the PACS in the configuration.")],
    study_list: Annotated[
        Path,
        typer.Option(
            help="CSV: patient_id, label and study_instance_uid or accession_number; optionally "
            "series_instance_uid."
        ),
    ],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder of the cohort.")],
    retrieve: Annotated[
        Literal["get", "move"],
        typer.Option(
            help="get: C-GET. move: C-MOVE to this node's AE title; the PACS must know where "
            "that is."
        ),
    ] = "get",
    move_port: Annotated[
        int | None,
        typer.Option(help="Port on which C-MOVE's images arrive. Default: the listener's."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Fetch the studies of a list from a PACS and write cohort.csv.

    Of each study the series is taken that the node would read. What is there already is kept.
    """
    from training.cohort.retrieval import pull_cohort

    settings = settings_source(config)()
    with progress_bar() as progress:
        cohort = pull_cohort(
            settings,
            settings.peer(peer),
            study_list,
            out_dir,
            by_move=retrieve == "move",
            move_port=move_port,
            progress=progress,
        )
    out.print(f"{len(cohort.rows)} patients in {cohort.file}", markup=False, highlight=False)


def _split_file(cohort: Path, split: Path | None) -> Path | None:
    beside = cohort.with_name("split.csv")
    return split or (beside if beside.is_file() else None)


def _split_table(cohort: Cohort, split: Split) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    counts = split.counts(cohort)
    for heading in ("class", "train", "validation", "test"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label, by_part in counts.items():
        table.add_row(label.key, *(str(count) for count in by_part.values()))
    return table


def _usage(words: str) -> None:
    complain(words)
    raise typer.Exit(EXIT_USAGE)


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="cohort", rich_help_panel="Train")
