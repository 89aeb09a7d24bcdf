"""Processes that were launched together, as torchrun and accelerate launch them: how they end."""
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from groundwork.processes import shares

PROGRAM = """
import sys, torch
from groundwork import processes as processes_module
from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.processes import average_over_processes, init_distributed

processes_module.SECONDS_UNTIL_ENDED = 3

def main(fails: int = -1):
    processes = init_distributed(torch.device("cpu"))
    if processes.process_index == fails:
        raise InputError(f"process {fails} cannot go on")
    assert processes.num_processes == 2
    numbers = torch.tensor(4.0 * processes.process_index), torch.arange(6.0).view(3, 2).T + processes.process_index
    average_over_processes(numbers)
    assert numbers[0] == 2 and torch.equal(numbers[1], torch.arange(6.0).view(3, 2).T + 0.5)
    assert init_distributed(torch.device("cpu")).num_processes == 2       # a second step of the same program

run(main, shares_work=True)
print("group is there:", torch.distributed.is_initialized(), file=sys.stderr)
"""
ALONE = """
import torch
from groundwork.command_line import run
from groundwork.processes import init_distributed

run(lambda: print("done by", init_distributed(torch.device("cpu")).num_processes))
"""


@pytest.fixture
def program(tmp_path):
    """program(text): the path of a script with this content."""
    def write(text):
        (tmp_path / "program.py").write_text(text)
        return tmp_path / "program.py"
    return write


def test_processes_leave_their_group_at_the_end(script, program):
    _, told = script(program(PROGRAM), processes=2)
    assert told.count("group is there: False") == 2, told


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_ends_the_others_soon_and_is_told_once(program, tmp_path, rank):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           program(PROGRAM), "--fails", str(rank)], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and done.stderr.count(f"error: process {rank} cannot go on") == 1, done.stderr
    assert "RuntimeError" not in done.stderr        # of the other one, which misses the first
    assert time.monotonic() - started < 60


def test_a_program_that_gains_nothing_says_so_and_is_done_once(script, program):
    out, _ = script(program(ALONE), processes=2)
    assert out.splitlines() == ["note: program.py gains nothing from 2 processes: one does all of the work",
                                "done by 1"]


@pytest.mark.parametrize("weights, count, expected", [
    ([4, 4, 4, 4], 2, ["ac", "bd"]), ([1, 1, 1, 3], 2, ["d", "abc"]), ([5, 4, 3, 3, 3], 2, ["ad", "bce"]),
    ([2, 1], 3, ["a", "b", ""]), ([1, 2, 3], 1, ["abc"])])
def test_shares_have_about_the_same_weight_and_keep_the_order(weights, count, expected):
    assert shares("abcde"[:len(weights)], weights, count) == list(map(list, expected))
