"""The command `costs`."""

import os
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.case_wtal.commands.common import say
from examples.case_wtal.config import Device

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PUBLISHED = {
    "basnet": (26.26, 38.60),
    "acmnet": (12.63, 9.48),
    "co2net": (34.13, 20.88),
    "own + CASE": (2.13, 1.60),
}
"""Parameters (millions) and multiply-adds (billions) that the paper of CASE prints (its table 1)."""

STREAMS, CLASSES = {"rgb": 1024, "flow": 1024}, 20

QUIET = 0.5
"""Load average below which nothing else seems to run; above it, latencies say more about the neighbours."""


@dataclass(frozen=True)
class Costs:
    """Print what every baseline costs on THUMOS14, alone and with CASE: parameters, multiply-adds, latency."""

    snippets: int = 750  # of the recording that is measured
    clusters: int = 16
    repeats: int = 10  # forward passes whose median is the latency; 0 measures none
    device: Device = "auto"  # where latency is measured; auto is CUDA if there is one

    def run(self) -> None:
        """Count, measure and print."""
        import torch
        from rich import box
        from rich.table import Table

        from examples.case_wtal.baselines import BASELINES, adapt
        from examples.case_wtal.config import CaseConfig, ModelConfig
        from examples.case_wtal.device import torch_device
        from examples.case_wtal.evaluation.tables import show
        from examples.case_wtal.model import CaseNetwork, count_costs

        for name, value, least in (
            ("snippets", self.snippets, 1),
            ("clusters", self.clusters, 1),
            ("repeats", self.repeats, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}. Correct it or leave it out.")
        device, load = torch_device(self.device), _load_average()
        base = CaseConfig(model=ModelConfig(clusters=self.clusters))
        networks: dict[str, nn.Module] = {}
        for name in BASELINES:
            whole = CaseNetwork(STREAMS, CLASSES, adapt(base, name)).eval().to(device)
            networks |= {name: whole.baseline, f"{name} + CASE": whole}
        costs = {name: count_costs(network, STREAMS, self.snippets) for name, network in networks.items()}
        seconds = self._latencies(networks, device) if self.repeats else {}
        head = ["parameters", "multiply-adds, G", "latency, ms", "published: parameters, M", "multiply-adds, G"]
        table = Table(title="Costs of one recording", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.add_column("", no_wrap=True)
        for column in head:
            table.add_column(column, justify="right")
        for name, (parameters, operations) in costs.items():
            published = [f"{value:.2f}" for value in PUBLISHED[name]] if name in PUBLISHED else ["", ""]
            latency = _describe(seconds[name]) if seconds else "-"
            table.add_row(name, f"{parameters:,}", f"{operations / 1e9:.5f}", latency, *published)
        streams = " and ".join(f"{name} {width} wide" for name, width in STREAMS.items())
        notes = [f"THUMOS14: streams {streams}, {CLASSES} classes, {self.snippets} snippets, {self.clusters} clusters."]
        notes += ["Counted: convolutions and linear layers. Published: quoted from CASE, table 1 (T = 750)."]
        if seconds:
            notes += [self._conditions(device, torch.get_num_threads(), load)]
        show([table], notes)
        parameters, operations = costs["own + CASE"]
        say(f"CASE: {parameters:,} parameters, {operations / 1e9:.5f} G multiply-adds.")

    def _latencies(self, networks: "dict[str, nn.Module]", device: "torch.device") -> dict[str, list[float]]:
        """Seconds of each forward pass; networks take turns, so that a disturbance meets all of them."""
        import torch

        mask = torch.ones(1, self.snippets, dtype=torch.bool, device=device)
        generator = torch.Generator().manual_seed(0)
        features: dict[str, Tensor] = {
            name: torch.randn(1, self.snippets, width, generator=generator).to(device)
            for name, width in STREAMS.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        with torch.no_grad():
            for turn in range(self.repeats + 1):
                for name, network in networks.items():
                    start = time.perf_counter()
                    network(features, mask)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    if turn:  # the first one warms up
                        seconds[name].append(time.perf_counter() - start)
        return seconds

    def _conditions(self, device: "torch.device", threads: int, load: float | None) -> str:
        """What the latencies were measured under, and whether they can be compared."""
        where = f"{device.type}, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else "cuda"
        text = f"Latency: one recording, forward pass, median of {self.repeats} and quartiles, on {where}."
        if load is None:
            return f"{text} How busy the machine was is unknown."
        if load > QUIET:
            return f"{text} NOT COMPARABLE: the machine was busy (load average {load:.1f} before the start)."
        return f"{text} The machine was idle (load average {load:.1f})."


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _describe(seconds: list[float]) -> str:
    """Median and quartiles in milliseconds."""
    if len(seconds) < 2:
        return f"{1e3 * seconds[0]:.1f}"
    low, middle, high = (1e3 * value for value in statistics.quantiles(seconds, n=4, method="inclusive"))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
