"""Evaluation of temporal action detections; numpy, no training code."""

from examples.case_wtal.evaluation.average_precision import Evaluation, evaluate
from examples.case_wtal.evaluation.detections import Detections
from examples.case_wtal.evaluation.foreground import foreground_auc
from examples.case_wtal.evaluation.protocol import (
    ACTIVITYNET,
    PROTOCOLS,
    THUMOS14,
    THUMOS14_210,
    THUMOS14_210_GT,
    THUMOS14_KIT,
    THUMOS14_ROUNDED,
    THUMOS14_WIDE,
    THUMOS15_KIT,
    Protocol,
)

__all__ = [
    "ACTIVITYNET",
    "PROTOCOLS",
    "THUMOS14",
    "THUMOS14_210",
    "THUMOS14_210_GT",
    "THUMOS14_KIT",
    "THUMOS14_ROUNDED",
    "THUMOS14_WIDE",
    "THUMOS15_KIT",
    "Detections",
    "Evaluation",
    "Protocol",
    "evaluate",
    "foreground_auc",
]
