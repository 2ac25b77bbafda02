"""Train what a table lacks, and put it together."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from examples.case_wtal import recipes as recipes_module
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.data import LocalizationData
from examples.case_wtal.experiments.figures import draw_clusters, draw_entropies
from examples.case_wtal.experiments.jobs import run_jobs
from examples.case_wtal.experiments.markdown import to_markdown
from examples.case_wtal.experiments.results import TableResult, TablesFile, summarise, write_tables
from examples.case_wtal.experiments.specs import TableSpec
from examples.case_wtal.files import write_text, write_whole
from examples.case_wtal.report import class_label_notes
from examples.case_wtal.run import protocol_of

FIGURES = {"figure_4a.png": draw_clusters, "figure_4b.png": draw_entropies}


def run_table(
    spec: TableSpec,
    config: CaseConfig,
    data: LocalizationData,
    seeds: Sequence[int],
    folder: Path,
    *,
    jobs: int = 1,
    report: Callable[[str], None] = lambda _: None,
) -> TableResult:
    """Train what the folder lacks of a table.

    Args:
        spec: The table.
        config: A recipe's settings, which its rows change.
        data: Its test split is evaluated.
        seeds: One training of each row with each.
        folder: Of the results of all tables.
        jobs: Worker processes.
        report: Receives a line for each finished training.
    """
    results = run_jobs(data, spec.configs(config, seeds), folder, jobs=jobs, report=report)
    return summarise(spec, {row.name: results[i :: len(spec.rows)] for i, row in enumerate(spec.rows)}, seeds)


def describe_tables(tables: Sequence[TableResult], config: CaseConfig, data: LocalizationData) -> TablesFile:
    """Tables with what every number in them depends on."""
    protocol, recipes = protocol_of(config.inference.protocol), {config.recipe: config}
    if {table.name for table in tables} & {"recipes", "labels"}:
        recipes = {name: make(config.dataset, config.root) for name, make in recipes_module.RECIPES.items()}
    return TablesFile(
        data.name,
        data.note,
        (len(data.train), len(data.test)),
        data.test_split,
        protocol.describe(),
        protocol.tious,
        config.recipe,
        tuple(class_label_notes(recipes)),
        tuple(tables),
    )


def write_all(content: TablesFile, folder: Path, command: str) -> list[Path]:
    """Write `tables.md`, `tables.json` and, with figure 4 among the tables, its pictures.

    Args:
        content: The tables; others that an earlier call wrote are replaced.
        folder: To write into.
        command: What made them, for the reader.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure_4 = next((table for table in content.tables if table.curves), None)
    pictures = {folder / name: draw for name, draw in FIGURES.items() if figure_4}
    paths = [folder / "tables.md", folder / "tables.json"]
    write_text(paths[0], to_markdown(content, command, [path.name for path in pictures]))
    write_tables(content, paths[1])
    if figure_4:
        for path, draw in pictures.items():
            write_whole(path, partial(draw(figure_4, content).savefig, format="png"))
    return [*paths, *pictures]
