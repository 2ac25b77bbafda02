"""The command `report`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from examples.case_wtal.commands.common import load_data, say


@dataclass(frozen=True)
class Report:
    """Write the HTML report of a run folder: results, interactive timelines, pictures. One file, no network."""

    folder: tyro.conf.Positional[Path]  # run folder
    root: Path | None = None  # folder of a downloaded data set, if it is elsewhere than at training
    out: Path | None = None  # file to write; None is report.html in the run folder
    embedding: Literal["tsne", "pca"] = "tsne"  # how embeddings are laid out; pca is quicker

    def run(self) -> None:
        """Write and name the file."""
        from examples.case_wtal.config_json import read_config
        from examples.case_wtal.html_report import write_report
        from examples.case_wtal.run_folder import existing

        config = read_config(existing(self.folder, "config.json"))
        data = load_data(replace(config, root=str(self.root) if self.root else config.root))
        path = write_report(self.folder, data, self.out, method=self.embedding, say=say)
        say(f"Report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
