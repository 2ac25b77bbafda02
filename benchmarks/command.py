"""What the command line asks for, once the threads are limited."""

import argparse
import shlex
import sys

import torch

from benchmarks import extras, machine, plot, report
from benchmarks.bench import Plan, run
from benchmarks.entry import GOALS
from benchmarks.records import Records


def execute(chosen: argparse.Namespace, cores: list[int]) -> None:
    """Measure, then write the report from the records; a run that is cut off reports what it has."""
    if chosen.device == "cuda" and not (chosen.dry_run or chosen.report_only or torch.cuda.is_available()):
        sys.exit(
            "`--device cuda` needs a CUDA device and a CUDA build of torch; torch sees none. "
            "Add --dry-run to try the program on the CPU."
        )
    torch.set_num_threads(chosen.threads)
    torch.set_grad_enabled(False)
    device = "cpu" if chosen.dry_run else chosen.device
    quick = {"rounds": 2 if chosen.dry_run else chosen.rounds, "tiny": chosen.dry_run}
    if chosen.pass_cost:
        found = extras.pass_cost(device, **quick)
        print(report.pass_cost_line(found))
        return
    path = chosen.out.with_name(chosen.out.name + ".jsonl")
    records = Records(path, resume=chosen.resume or chosen.report_only)
    if not chosen.report_only:
        records.add("header", **_header(chosen, cores, device))
        try:
            _measure(chosen, records, device, quick)
        except KeyboardInterrupt:
            print("cut off; --resume goes on from here")
    plots = plot.write(records, chosen.out)
    report.write(records, chosen.out, plots)


def _measure(chosen: argparse.Namespace, records: Records, device: str, quick: dict[str, int]) -> None:
    plan = Plan(
        workloads=chosen.workloads,
        kinds=chosen.kinds,
        variants=chosen.variants,
        epsilons=chosen.epsilons,
        goals=[GOALS[name] for name in chosen.goals],
        contenders=chosen.contenders,
        rounds=quick["rounds"],
        budget=chosen.budget,
        patience=chosen.patience,
        memory_limit=chosen.memory_limit,
        reference_limit=chosen.reference_limit,
        device=device,
        tiny=bool(quick["tiny"]),
    )
    run(plan, records)
    measured = {record["record"] for record in records.all}
    # Only a run of all workloads ends with them: they are part of the full report.
    wanted = ["pass_cost"] + (["bandwidth", "graph"] if chosen.device == "cuda" else [])
    for name in wanted:
        if name not in measured and len(plan.workloads) == 7:
            records.add(name, **getattr(extras, name)(device, **quick))


def _header(chosen: argparse.Namespace, cores: list[int], device: str) -> dict[str, object]:
    header = {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "versions": machine.versions(),
        "processor": machine.processor(),
        "threads": torch.get_num_threads(),
        "pinned": len(cores),
        "rounds": chosen.rounds,
        "budget": chosen.budget,
        "patience": chosen.patience,
        "reference_limit": chosen.reference_limit,
        "memory_limit": chosen.memory_limit,
        "dry_run": chosen.dry_run,
    }
    if device == "cuda":
        header["gpu"] = torch.cuda.get_device_name()
    return header
