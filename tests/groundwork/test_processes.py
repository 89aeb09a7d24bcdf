"""Processes that were launched together, as torchrun and accelerate launch them: how they end."""
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

PROGRAM = """
import sys, torch
from groundwork.processes import init_distributed
from groundwork.command_line import run
from groundwork.errors import InputError

def main(fails: bool = False):
    processes = init_distributed(torch.device("cpu"))
    if fails and processes.is_main_process:
        raise InputError("the main process cannot go on")
    total = torch.ones(())
    torch.distributed.all_reduce(total)
    assert total == processes.num_processes == 2
    assert init_distributed(torch.device("cpu")).num_processes == 2       # a second step of the same program

run(main, shares_work=True)
print("group is there:", torch.distributed.is_initialized(), file=sys.stderr)
"""


@pytest.fixture
def launch_two(tmp_path):
    """launch_two(*arguments): (exit status, standard error) of two processes that run PROGRAM."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)

    def launch(*arguments):
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                               str(path), *arguments], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
        return done.returncode, done.stderr
    return launch


def test_processes_leave_their_group_at_the_end(launch_two):
    status, told = launch_two()
    assert status == 0 and told.count("group is there: False") == 2, told


def test_after_an_error_of_one_process_the_others_end_soon(launch_two):
    started = time.monotonic()
    status, told = launch_two("--fails")
    assert status == 1 and "error: the main process cannot go on" in told, told
    assert time.monotonic() - started < 60
