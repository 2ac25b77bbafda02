"""Commands of the command line, one a file; what one needs is imported when it runs, so `--help` answers at once."""

from examples.case_wtal.commands.check import Check
from examples.case_wtal.commands.costs import Costs
from examples.case_wtal.commands.demo import Demo
from examples.case_wtal.commands.evaluate import Evaluate
from examples.case_wtal.commands.extract import Extract
from examples.case_wtal.commands.predict import Predict
from examples.case_wtal.commands.report import Report
from examples.case_wtal.commands.tables import Tables
from examples.case_wtal.commands.train import Train

__all__ = ["COMMANDS", "Check", "Costs", "Demo", "Evaluate", "Extract", "Predict", "Report", "Tables", "Train"]

COMMANDS = {
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "report": Report,
    "extract": Extract,
    "tables": Tables,
    "check": Check,
    "costs": Costs,
}
"""Name -> command, in the order of the help."""
