"""Baselines by name. Your own is a subclass of `Baseline`, entered in `BASELINES`; see `docs/case_baselines.md`."""

from collections.abc import Callable

from examples.case_wtal.baselines.acmnet import AcmNet, AcmNetSettings
from examples.case_wtal.baselines.adaptation import adapt
from examples.case_wtal.baselines.basnet import BasNet, BasNetSettings
from examples.case_wtal.baselines.co2net import Co2Net, Co2NetSettings
from examples.case_wtal.baselines.interface import Baseline, BaselineOutput, StreamOutput
from examples.case_wtal.baselines.own import OwnBaseline

__all__ = [
    "BASELINES",
    "AcmNet",
    "AcmNetSettings",
    "BasNet",
    "BasNetSettings",
    "Baseline",
    "BaselineOutput",
    "Co2Net",
    "Co2NetSettings",
    "OwnBaseline",
    "StreamOutput",
    "adapt",
]

BASELINES: dict[str, Callable[..., Baseline]] = {
    "own": OwnBaseline,
    "basnet": BasNet,
    "acmnet": AcmNet,
    "co2net": Co2Net,
}
"""Name in `ModelConfig.baseline` -> what makes it from (stream widths, number of classes, CaseConfig)."""
