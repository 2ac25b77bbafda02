"""Clocks: single calls under a time limit, and rounds in which all contenders take turns."""

import gc
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

SAMPLE_SECONDS = 0.02  # a sample of a short call repeats it for about that long


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `seconds`; a long call into compiled code ends first."""

    def ring(*_: Any) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def wait(device: torch.device) -> None:
    """Wait for the device, so that its work is inside the time."""
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Trial:
    """One call: its time and answer, or why there is none."""

    seconds: float = float("nan")
    answer: Any = None
    failure: str = ""


def attempt(call: Callable[[], Any], device: torch.device, limit: float) -> Trial:
    """Make one call, ended after `limit` seconds, and turn whatever goes wrong into a reason."""
    start = time.perf_counter()
    try:
        with alarm(limit):
            answer = call()
            wait(device)
    except TimeoutError:
        return Trial(failure=f"not within {limit:.2g} s")
    except Warning as warning:  # one that a contender has turned into an error says it all
        return Trial(failure=" ".join(str(warning).removeprefix("Warning: ").split()))
    except Exception as error:  # noqa: BLE001 - whatever another library raises is a result here
        return Trial(failure=" ".join(f"{type(error).__name__}: {error}".split()))
    return Trial(time.perf_counter() - start, answer)


@dataclass
class Entrant:
    """A call that takes part in the rounds."""

    name: str
    call: Callable[[], Any]
    seconds: float  # of its trial
    samples: list[float] = field(default_factory=list)

    def warm_up(self, device: torch.device) -> None:
        """Time a short call again: the trial also paid for what first calls load, and would repeat it too little."""
        for _ in range(3):
            if self.seconds < SAMPLE_SECONDS:
                start = time.perf_counter()
                self.call()
                wait(device)
                self.seconds = min(self.seconds, time.perf_counter() - start)

    def rounds(self, most: int, base: float) -> int:
        """Long calls vary less and are repeated less, down to once if they are far from the `base` seconds anyway."""
        if self.seconds < 0.3:
            return most
        return min(most, 3) if self.seconds < max(1.0, 5 * base) else 1

    def repeats(self) -> int:
        return max(1, min(1000, round(SAMPLE_SECONDS / max(self.seconds, 1e-6))))

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def take_turns(entrants: list[Entrant], rounds: int, device: torch.device) -> None:
    """Fill the samples: in each round every entrant is timed once, the order rotated from round to round.

    The first entrant is the one that others are compared with and takes part in every round, so that each sample of
    another has one beside it.
    """
    for entrant in entrants:
        entrant.warm_up(device)
    planned = {entrant.name: entrant.rounds(rounds, entrants[0].seconds) for entrant in entrants}
    for number in range(max(planned.values(), default=0)):
        gc.collect()
        shift = number % len(entrants)
        for entrant in entrants[shift:] + entrants[:shift]:
            if entrant is not entrants[0] and number >= planned[entrant.name]:
                continue
            entrant.samples.append(_sample(entrant, device))
            entrant.seconds = min(entrant.seconds, entrant.samples[-1])  # the next sample repeats it often enough


def _sample(entrant: Entrant, device: torch.device) -> float:
    repeats = entrant.repeats()
    gc.disable()
    try:
        wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            entrant.call()
        wait(device)
        return (time.perf_counter() - start) / repeats
    finally:
        gc.enable()


def paired_ratio(entrant: Entrant, base: Entrant) -> float:
    """Median over rounds of entrant / base."""
    return statistics.median(theirs / ours for theirs, ours in zip(entrant.samples, base.samples, strict=False))
