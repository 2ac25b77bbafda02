"""Command line: `python -m examples.case_wtal COMMAND`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from examples.case_wtal.commands import COMMANDS, Train
from examples.case_wtal.commands.common import PROGRAM
from examples.case_wtal.config import CaseConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name; None takes them from the command line.

    Returns:
        0, 2 after an error in what was asked for, 130 after an interruption.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = tyro.cli(_commands(arguments), prog=PROGRAM, description=__doc__.splitlines()[0], args=arguments)
        command.run()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. `train --resume` and `tables` go on from what is finished.", file=sys.stderr)
        return 130
    return 0


def _commands(arguments: list[str]) -> Any:
    """The union of all commands; the settings of `train` start from what its own arguments name."""
    defaults: dict[str, Any] = {}
    if arguments[:1] == ["train"]:
        defaults["train"] = Train(config=_starting_config(arguments[1:]))
    parts = [
        Annotated[command, subcommand(name, default=defaults[name]) if name in defaults else subcommand(name)]
        for name, command in COMMANDS.items()
    ]
    return Union[tuple(parts)]  # noqa: UP007 - made from values


def _starting_config(arguments: list[str]) -> CaseConfig:
    """Settings before the changes of the command line: of a resumed run, a file, or a recipe."""
    from examples.case_wtal.config_json import read_config
    from examples.case_wtal.recipes import RECIPES

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--recipe", "--dataset", "--root", "--folder", "--config"):
        first.add_argument(option)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    saved = known.config or (known.resume and known.folder and str(Path(known.folder) / "config.json"))
    if saved:
        if known.recipe is not None:
            raise ValueError(
                f"`recipe` must be left out when settings come from a file, got {known.recipe!r} and {saved}. "
                "Drop one of the two."
            )
        return read_config(saved)
    recipe = known.recipe or "otlabel"
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}, got {recipe!r}. Choose one of them.")
    return RECIPES[recipe](known.dataset or "watch", known.root)
