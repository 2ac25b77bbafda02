"""Worker processes of experiments: same numbers, clear ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from examples.case_wtal.experiments import jobs as module
from examples.case_wtal.experiments.jobs import run_jobs
from tests.case_wtal.tiny import tiny_config, tiny_data

PARENT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from examples.case_wtal.experiments import jobs

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=jobs._start_worker, initargs=(None,))
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def settings(seed):
    return tiny_config(epochs=1, seed=seed)


def test_workers_give_the_numbers_of_one_process(tmp_path):
    data, configs = tiny_data(), [settings(0), settings(1)]
    alone = run_jobs(data, configs, tmp_path / "one")
    assert run_jobs(data, configs, tmp_path / "two", jobs=2) == alone


def test_a_worker_that_dies_is_explained(tmp_path, monkeypatch):
    class DyingPool(ThreadPoolExecutor):
        def __init__(self, jobs, **_):
            super().__init__(jobs)

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr(module, "ProcessPoolExecutor", DyingPool)
    with pytest.raises(ChildProcessError, match="`jobs` must leave each worker enough memory, got 2 and a worker"):
        run_jobs(tiny_data(), [settings(0), settings(1)], tmp_path, jobs=2)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )
    with parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(300):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker still waits")
