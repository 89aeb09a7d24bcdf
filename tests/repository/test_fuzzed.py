"""Damaged files of every kind that is read: taken or refused, nothing else; scripts/fuzz.py tries at length."""
import random
from pathlib import Path

import pytest

from scripts import fuzz

FOUND = sorted((Path(__file__).parents[1] / "fuzzed").iterdir())        # each made a reader raise something once


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.name)
def test_what_was_found_once_is_refused_properly(tmp_path, file):
    assert fuzz.attempt(file.name.rpartition(" ")[0], file.read_bytes(), tmp_path) is None


@pytest.mark.parametrize("name", fuzz.KINDS)
def test_a_whole_file_is_read_and_damaged_ones_are_taken_or_refused(tmp_path, name):
    kind, chance = fuzz.KINDS[name], random.Random(name)
    path = tmp_path / kind.file_name
    kind.write(path)
    whole = path.read_bytes()
    if name != "checkpoint":       # of which there is but one tensor
        kind.read(path)
    for _ in range(20):
        damaged = fuzz.mutate(whole, chance)
        error = fuzz.attempt(name, damaged, tmp_path)
        assert error is None, (error, damaged)


def test_a_reader_that_raises_something_else_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(fuzz.KINDS, "runs", fuzz.Kind("runs.csv", None, lambda path: 1 / 0))
    assert isinstance(fuzz.attempt("runs", b"", tmp_path), ZeroDivisionError)
