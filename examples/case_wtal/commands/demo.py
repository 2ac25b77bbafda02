"""The command `demo`."""

from dataclasses import dataclass, replace
from pathlib import Path

from examples.case_wtal.commands.common import PROGRAM, say


@dataclass(frozen=True)
class Demo:
    """Train and evaluate the parts of CASE on small real recordings: a table and a picture in about two minutes."""

    folder: Path = Path("runs/demo")  # receives recording.png
    # Of the trainings. With seed 0 the attention settles on a background exercise: recording-level labels cannot tell.
    seed: int = 1

    def run(self) -> None:
        """Train, print the table, name the picture."""
        from examples.case_wtal.data import load
        from examples.case_wtal.demo import demo
        from examples.case_wtal.evaluation.tables import show
        from examples.case_wtal.recipes import RECIPES
        from examples.case_wtal.report import class_label_notes, context, results_table
        from examples.case_wtal.run import protocol_of, selection_note

        data, config = load("watch"), RECIPES["otlabel"]("watch")
        config = replace(config, train=replace(config.train, seed=self.seed))
        table, picture = demo(config, data, self.folder, report=say)
        protocol = protocol_of(config.inference.protocol)
        notes = [
            context(data, protocol, selection_note(config)),
            *class_label_notes({config.recipe: config}),
            f"A single seed ({config.train.seed}): differences of a few points are within what another seed changes. "
            f"For several seeds: {PROGRAM} tables --table recipes",
        ]
        show([results_table(table, protocol, "CASE on smartwatch exercises")], notes)
        say(f"\nOne recording, drawn: {picture}")
