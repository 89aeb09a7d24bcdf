"""The command that checks a card, on the CPU at a tiny size; and what it does with checks that fail, hang or crash."""
import json
import os
import time

from types import SimpleNamespace

import pytest
import torch
from conftest import PROCESSES

from benchmarks import check_device, reference
from benchmarks.checks import training
from benchmarks.checks.check import Check, Outcome, Setting
from benchmarks.measure import FULL_SIZE
from groundwork.errors import InputError


def fine(setting):
    """Passes, and says on which device."""
    return Outcome(True, f"computed on {setting.device}", {"process": os.getpid(), "nan": float("nan")})


def out_of_bounds(setting):
    print("what it printed before")
    return Outcome(False, "0.2 (below 0.1)", {"process": os.getpid(), "error": 0.2})


def raises(setting):
    raise RuntimeError("CUDA error: misaligned address\nmore of it")


def hangs(setting):
    time.sleep(60)


def crashes(setting):
    os._exit(139)


def check(tmp_path, *functions, seconds=30.0, minutes=1.0):
    """The content of the JSON file, and whether all checks passed."""
    passed = check_device.check_all([Check("group", function, seconds) for function in functions], "cpu",
                                    tmp_path / "check.json", minutes, tiny=True, context=PROCESSES)
    return json.loads((tmp_path / "check.json").read_text())["checks"], passed


@pytest.fixture(scope="module")
def on_the_cpu_at_tiny_size(tmp_path_factory):
    path = tmp_path_factory.mktemp("check") / "check.json"
    groups = [check for check in check_device.CHECKS if check.group in ("card", "step", "training", "images")]
    return check_device.check_all(groups, "cpu", path, 5, tiny=True, context=PROCESSES), json.loads(path.read_text())


def test_all_checks_pass_on_the_cpu(on_the_cpu_at_tiny_size):
    passed, found = on_the_cpu_at_tiny_size
    assert passed, found
    assert {entry["group"] for entry in found["checks"].values()} == {"card", "step", "training", "images"}
    assert found["checks"]["resume to the bit"]["figures"]["resumed"] == 0
    assert found["checks"]["versions"]["figures"]["torch"]


def test_checks_about_cuda_are_left_out_on_a_cpu(on_the_cpu_at_tiny_size):
    _, found = on_the_cpu_at_tiny_size
    assert "kernels per step" not in found["checks"]


def test_a_check_that_fails_or_raises_does_not_stop_the_others(tmp_path, capsys):
    found, passed = check(tmp_path, out_of_bounds, raises, fine)
    assert not passed
    assert [entry["verdict"] for entry in found.values()] == ["FAIL", "FAIL", "pass"]
    assert found["out of bounds"]["line"] == "0.2 (below 0.1)" and found["out of bounds"]["figures"]["error"] == 0.2
    assert found["raises"]["line"] == "RuntimeError: CUDA error: misaligned address"
    assert "more of it" in found["raises"]["output"] and "what it printed" in found["out of bounds"]["output"]
    assert "FAIL    raises: RuntimeError" in capsys.readouterr().out


def test_a_check_after_one_that_failed_gets_a_new_process(tmp_path):
    found, _ = check(tmp_path, fine, out_of_bounds)
    assert found["fine"]["figures"]["process"] == found["out of bounds"]["figures"]["process"]
    found, _ = check(tmp_path, out_of_bounds, fine)
    assert found["fine"]["figures"]["process"] != found["out of bounds"]["figures"]["process"]
    assert found["fine"]["figures"]["nan"] is None      # valid JSON


def test_a_check_over_its_time_limit_is_ended_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.checks.runner.GRACE_SECONDS", 1)
    started = time.monotonic()
    found, _ = check(tmp_path, hangs, fine, seconds=2)
    assert time.monotonic() - started < 40
    assert found["hangs"]["line"] == "over its time limit of 2 s" and found["fine"]["verdict"] == "pass"
    assert "in hangs" in found["hangs"]["output"]       # where it was


def test_a_check_whose_process_dies_is_named(tmp_path):
    found, _ = check(tmp_path, crashes, fine)
    assert found["crashes"]["line"] == "its process ended with status 139" and found["fine"]["verdict"] == "pass"


def test_checks_for_which_there_is_no_time_are_named(tmp_path):
    found, passed = check(tmp_path, fine, minutes=0)
    assert found["fine"]["verdict"] == "not run" and not passed


@pytest.mark.parametrize("capability, passes", [((6, 0), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_how_much_faster_than_the_reference_is_required_of_new_cards_only(capability, passes, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(training, "time_steps", lambda setting: {"ms": 1e9})
    monkeypatch.setattr(reference, "Training", lambda *_: SimpleNamespace(step=lambda: None))
    outcome = training.references(Setting(torch.device("cuda", 0), FULL_SIZE, tmp_path))
    assert outcome.passed == passes and ("(above 15)" in outcome.line) != passes


def test_an_unknown_group_is_named():
    with pytest.raises(InputError, match="sorting.*card, gradients, step"):
        check_device.main(only=("sorting",))
