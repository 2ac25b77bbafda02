"""The machine: limits on threads, set before any array library is imported, and what the header of a report names."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "POT", "jax", "jaxlib", "ott-jax", "geomloss", "mdot-tnt", "regot", "otlabel")


def limit_threads(threads: int, cores: list[int] | None, device: str) -> list[int]:
    """Hold BLAS, OpenMP and XLA to `threads` threads and the process to `cores`; returns the cores, empty for any."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)
    if device == "cpu":
        eigen = "true" if threads > 1 else "false"
        os.environ["XLA_FLAGS"] = (
            f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads} "
            + os.environ.get("XLA_FLAGS", "")
        )
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the torch contenders need the device's memory too
    if not cores or not hasattr(os, "sched_setaffinity"):
        return []
    os.sched_setaffinity(0, cores)
    return sorted(os.sched_getaffinity(0))


def last_cores(count: int) -> list[int]:
    """The last `count` cores this process may use; interrupts mostly land on the first ones."""
    return sorted(os.sched_getaffinity(0))[-count:] if hasattr(os, "sched_getaffinity") else []


def versions() -> dict[str, str]:
    """Installed versions of everything that takes part."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
