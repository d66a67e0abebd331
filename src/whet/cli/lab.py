"""``whet lab``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb

if TYPE_CHECKING:
    from whet.report.lab_results import Shelf, Variant


@click.command("lab", cls=Verb)
@click.option("--model-path", required=True, metavar="MODEL", help="A Keras classifier, .keras or .h5.")
@click.option(
    "--dataset-root",
    required=True,
    metavar="DATA",
    help="A folder with one folder of pictures a class, or train/ and test/ of those.",
)
@click.option(
    "--results-path", required=True, metavar="RESULTS", help="The folder; the same command on it resumes."
)
@click.option(
    "--download-dataset",
    is_flag=True,
    help="First download Oxford-IIIT Pet (37 breeds, 800 MB) to the data's folder, unless it is there.",
)
@click.option(
    "--test-dataset-fraction",
    "fraction",
    type=opt.Number(),
    default=1.0,
    show_default=True,
    help="Of the test pictures that are measured, the same share of each class.",
)
@click.option(
    "--epochs",
    type=opt.Number(),
    help="Of each training; by default as many as look at 60,000 pictures, 30 at most.",
)
@click.option(
    "--num-clusters",
    "clusters",
    type=int,
    multiple=True,
    default=(16, 64),
    show_default=True,
    help="Values that the weights of a layer may have. Repeatable; combinations take the first.",
)
@click.option(
    "--sparsity",
    "sparsities",
    type=opt.Number(),
    multiple=True,
    default=(0.5, 0.8),
    show_default=True,
    help="Share of weights that become zero. Repeatable; combinations take the first.",
)
@click.option(
    "--preprocess",
    metavar="SPEC",
    default="",
    help="What else becomes of a picture: 'scale=1/255'. By default it is brought to the model's size, 0 to 255.",
)
@opt.skip_unreadable
@click.option("--trust-pickle", is_flag=True, help="Allow code that comes with the model (Lambda layers).")
@opt.machine_options
@opt.json_flag
def command(
    model_path: str, dataset_root: str, results_path: str, download_dataset: bool, as_json: bool, **options: Any
) -> int:
    """Compress an image classifier in every way, measure each TFLite file, and compare them all in RESULTS.

    Quantized, pruned and clustered variants and their combinations; summary.md tells how they compare. Exit code 1
    if a variant failed. To train a classifier first: python -m whet.lab.classifier DATA MODEL.
    """
    from whet import plain
    from whet.cli import console
    from whet.lab.conduct import Wanted, conduct
    from whet.report.lab_results import load, shelf

    results = Path(results_path)
    wanted = Wanted(model_path, Path(dataset_root), results, **options)
    wanted.check()
    with console.Show() as show:
        if download_dataset:
            from whet.data import pets

            pets.download(Path(dataset_root), show)
        lab = conduct(wanted, show)
    found = shelf(*load(results))
    if as_json:
        click.echo(plain.dumps(lab), nl=False)
    else:
        _table(found, results, lab.notes)
    return 1 if found.failed else 0


def _table(found: Shelf, results: Path, notes: Sequence[str]) -> None:
    """Print the variants, what is to be known of them, and where everything lies."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=140)  # the names of combinations are long
    heads = ("variant", "accuracy", "worse by", "ms", "faster", "KB", "smaller", "deflated KB", "deflation")
    table = Table(title=f"laboratory: {results}", title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head == "variant" else "right", no_wrap=True)
    for item in (found.original, *found.files):
        table.add_row(*_cells(item, found))
    for item in found.failed:
        table.add_row(item.name, "[red]failed[/]", *[""] * (len(heads) - 2))
    console.print(table)
    for item in found.failed:
        console.print(f"[red]failed[/] {item.name}: {escape(item.failure)}", highlight=False)
    for note in notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    console.print(f"\nsummary  {results / 'summary.md'}", soft_wrap=True, highlight=False)


def _cells(item: Variant, found: Shelf) -> list[str]:
    """Return the row of a variant."""
    from whet.report.lab_sizes import smaller

    sized = item.size_bytes > 0
    return [
        item.name,
        f"{item.accuracy:.4f}" if item.quality else "",
        f"{item.drop:+.4f}" if item.drop is not None else "",
        f"{item.latency_ms.value:.3g}" if item.latency_ms else "",
        f"{item.faster.faster:.2f}x" if item.faster else "",
        f"{item.size_bytes / 1000:,.1f}" if sized else "",
        f"{smaller(item, found.base):.2f}x" if sized and found.base else "",
        f"{item.deflated_bytes / 1000:,.1f}" if sized else "",
        f"{item.deflation_percent:.0f} %" if sized else "",
    ]
