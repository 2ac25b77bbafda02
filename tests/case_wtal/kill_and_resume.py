"""Trains, is killed, and resumes, again and again: `python -m tests.case_wtal.kill_and_resume FOLDER`.

A program of its own, because a process that is to be forked must not have threads, and so that torch is imported once
for many trainings. Prints what happened as JSON.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from examples.case_wtal.config import LabelConfig
from examples.case_wtal.run import train
from tests.case_wtal.tiny import tiny_config, tiny_data

RUNS = {"random": {"epochs": 5, "stages": 2}, "rename": {"epochs": 2}}


def settings(run):
    config = tiny_config(snippets=12, **RUNS[run])
    return replace(config, loss=replace(config.loss, class_weight=1.0), label=LabelConfig(memory="ema"))


def attempt(folder, run):
    """Start a run or go on with it, whichever the folder asks for."""
    train(settings(run), tiny_data(), folder, progress=False, resume=(folder / "config.json").exists())


def in_child(folder, run, before=lambda: None):
    """Process id of a child that makes one attempt."""
    child = os.fork()
    if child:
        return child
    try:
        before()
        attempt(folder, run)
    except BaseException:  # noqa: BLE001 - it must not reach the parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_random(folder, run, moments, seed=0):
    """Kill at random moments, several times, then let it finish; returns the exit codes."""
    rng = random.Random(seed)
    codes = []
    for _ in range(moments):
        child = in_child(folder, run)
        time.sleep(rng.uniform(0.05, 0.45))
        os.kill(child, signal.SIGKILL)
        codes.append(wait(child))
    return [*codes, wait(in_child(folder, run))]


def killed_before_rename(folder, run, count):
    """Kill just before the count-th rename: all is written, nothing is in its place. Then let it finish."""
    whole = Path.replace
    seen = []

    def replace_or_die(self, target):
        seen.append(target)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, target)

    def arm():
        Path.replace = replace_or_die

    return [wait(in_child(folder, run, arm)), wait(in_child(folder, run))]


def main():
    torch.set_num_threads(1)
    train(settings("rename"), tiny_data(), progress=False)  # imports and caches that each child would fill anew
    root = Path(sys.argv[1])
    codes = {name: {"whole": [wait(in_child(root / name / "whole", name))]} for name in RUNS}
    codes["random"]["cut"] = killed_at_random(root / "random" / "cut", "random", 5)
    for count in range(1, 40):
        codes["rename"][str(count)] = killed_before_rename(root / "rename" / str(count), "rename", count)
        if codes["rename"][str(count)][0] == 0:  # there is no such rename
            break
    sys.stdout.write(json.dumps(codes) + "\n")


if __name__ == "__main__":
    main()
