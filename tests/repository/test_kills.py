"""SIGKILL at a few random moments of every kind of work; scripts/kills.py does it at as many as one likes."""
import pytest
import torch

from scripts import kills


@pytest.fixture(scope="module")
def outcomes():
    return kills.main(kills=1, seed=1)


@pytest.mark.parametrize("kind", kills.KINDS)
def test_nothing_is_lost(outcomes, kind):
    assert outcomes[kind].lost == 0, outcomes[kind]


def test_kills_come_before_the_end(outcomes):
    assert sum(outcome.killed_before_end for outcome in outcomes.values()) >= 2       # of five


def test_what_is_not_whole_is_found(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "model-1.pt")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')     # torn, as an appended line may be
    (tmp_path / ".model-2.0123abcd-4711.0123abcd.tmp.pt").write_text("half")
    assert kills.broken_files(tmp_path) == []
    whole = (tmp_path / "model-1.pt").read_bytes()
    for name, content in {"model-2.pt": whole[:-100], "metrics.jsonl": b"{\n{}\n", "report.html": b"<html>",
                          "runs.csv": b"a,b\n1\n", "x.json": b"{", "x.png": b"\x89PNG"}.items():
        (tmp_path / name).write_bytes(content)
    assert len(kills.broken_files(tmp_path)) == 6


def test_equal_means_to_the_bit():
    one = {"a": [torch.tensor([1.0, 2.0]), {"b": 3}], "c": "x"}
    assert kills.equal(one, {"a": [torch.tensor([1.0, 2.0]), {"b": 3}], "c": "x"})
    assert not kills.equal(one, {"a": [torch.tensor([1.0, 2.0 + 2e-7]), {"b": 3}], "c": "x"})
    assert not kills.equal(one, {"a": [torch.tensor([1.0, 2.0]), {"b": 3}]})
