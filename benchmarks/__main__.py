"""Benchmarks of otlabel beside other libraries, every answer checked in float64.

    python -m benchmarks --out benchmarks/results/cpu                     # everything, on one core: hours
    python -m benchmarks --device cuda --out benchmarks/results/cuda      # torch contenders on a GPU
    python -m benchmarks --workloads a c --epsilons 0.05 --kinds clustered --variants plain   # minutes
    python -m benchmarks --pass-cost                                      # one Sinkhorn pass against scores.sum()

Writes OUT.jsonl (every measurement, as it is made), OUT.md and OUT_<kind>.png. Run nothing else meanwhile. A peer that
is not installed is listed as such. A run that was cut off goes on with --resume.
"""

import argparse
from pathlib import Path

from benchmarks import machine


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, help="path of the results without ending (default: benchmarks/results/<device>)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dry-run", action="store_true", help="tiny problems on the CPU, to try the program")
    add("--resume", action="store_true", help="keep OUT.jsonl and measure what it lacks")
    add("--report-only", action="store_true", help="write the tables and plots of OUT.jsonl again")
    add("--pass-cost", action="store_true", help="only measure one pass against a sum of the scores, on workload e")
    add("--workloads", nargs="+", choices="abcdefg", default=list("gacdbef"), metavar="NAME", help="of a to g")
    add("--kinds", nargs="+", choices=("clustered", "random"), default=["clustered", "random"], metavar="KIND")
    add("--variants", nargs="+", choices=("plain", "prior", "marginal", "mask"), metavar="VARIANT")
    add("--epsilons", nargs="+", type=float, default=[0.05, 0.005, 0.001], metavar="EPS")
    add("--goals", nargs="+", choices=("fixed", "1e-3", "1e-6"), default=["fixed", "1e-3", "1e-6"], metavar="GOAL")
    add("--contenders", nargs="+", default=[], metavar="PART", help="parts of names; otlabel's default always runs")
    add("--rounds", type=int, default=7, help="most interleaved repetitions (default 7)")
    add("--budget", type=float, default=5.0, help="seconds of a call; longer ones are predicted (default 5)")
    add("--patience", type=float, default=60.0, help="the same for what cannot be predicted, if none else is correct")
    add("--memory-limit", type=float, default=12.0, help="gigabytes a contender may need (default 12)")
    add("--reference-limit", type=float, default=120.0, help="seconds of a float64 reference run (default 120)")
    add("--threads", type=int, default=1, help="threads of every contender (default 1)")
    add("--cores", help="cores to stay on, such as 2,3, or 'any' (default: the last ones, as many as threads)")
    chosen = parser.parse_args()
    chosen.out = chosen.out or Path("benchmarks/results", chosen.device)
    if chosen.dry_run:
        chosen.budget, chosen.reference_limit = min(chosen.budget, 0.2), min(chosen.reference_limit, 2.0)
        chosen.patience = min(chosen.patience, 0.2)
    chosen.variants = chosen.variants or ["plain", "prior", "marginal", "mask"]
    return chosen


def main() -> None:
    """Limit the threads, then import what uses them."""
    chosen = options()
    if chosen.cores:
        cores = None if chosen.cores == "any" else [int(core) for core in chosen.cores.split(",")]
    else:
        cores = machine.last_cores(chosen.threads) if chosen.device == "cpu" else None
    cores = machine.limit_threads(chosen.threads, cores, "cpu" if chosen.dry_run else chosen.device)

    from benchmarks import command

    command.execute(chosen, cores)


if __name__ == "__main__":
    main()
