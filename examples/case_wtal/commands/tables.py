"""The command `tables`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from examples.case_wtal.commands.common import PROGRAM, Dataset, Recipe, load_data, say

TableName = Literal["4", "5", "6", "7", "10", "11", "12", "figure-4", "c3", "addon", "recipes", "labels", "all"]


@dataclass(frozen=True)
class Tables:
    """Ablations of the paper, table by table: train what is missing, compare seed by seed, write and draw.

    4 and 10: components; 5: labelling; 6: prior and proportions; 7: test time; 11: parts of the baseline; 12: shared
    labels; figure-4: number of clusters, entropies; c3: rank or attention; addon: other baselines (table 2); recipes:
    components of each recipe; labels: foreground maps and entropies of each recipe.
    """

    table: tuple[TableName, ...] = ("all",)  # which to make
    dataset: Dataset = "watch"
    root: Path | None = None  # folder of a downloaded data set
    recipe: Recipe = "paper"  # settings that the rows change
    seeds: int = 5  # trainings of each row, with seeds 0, 1, ...
    jobs: int = 1  # worker processes, with one thread each
    folder: Path | None = None  # results and tables; a second call goes on from it. None: runs/tables/DATASET

    def run(self) -> None:
        """Print and write each table as soon as its trainings are done."""
        from examples.case_wtal.evaluation.tables import show
        from examples.case_wtal.experiments.families import find_tables
        from examples.case_wtal.experiments.markdown import context_notes, table_cells, table_notes
        from examples.case_wtal.experiments.run import describe_tables, run_table, write_all
        from examples.case_wtal.recipes import RECIPES
        from examples.case_wtal.report import experiment_table
        from examples.case_wtal.run import protocol_of

        if self.seeds < 1:
            raise ValueError(f"`seeds` must be at least 1, got {self.seeds}. Two seeds or more give an interval.")
        folder = self.folder or Path("runs/tables") / self.dataset
        specs = find_tables(self.table)
        config = RECIPES[self.recipe](self.dataset, str(self.root) if self.root else None)
        data, done = load_data(config), []
        for spec in specs:
            table = run_table(spec, config, data, range(self.seeds), folder, jobs=self.jobs, report=say)
            done.append(table)
            cells = table_cells(table, protocol_of(config.inference.protocol).tious)
            show([experiment_table(*cells, table.title)], table_notes(table))
            content = describe_tables(done, config, data)
            written = ", ".join(path.name for path in write_all(content, folder, self._command()))
        show([], [*context_notes(content), f"Written to {folder}: {written}."])

    def _command(self) -> str:
        """The call, for the reader of the tables."""
        root = " --root PATH" if self.root else ""
        tables, recipe = " ".join(self.table), f" --recipe {self.recipe}"
        return f"{PROGRAM} tables --table {tables} --dataset {self.dataset}{root}{recipe} --seeds {self.seeds}"
