"""The benchmarks' arithmetic; no test asserts a time."""
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import measure, reference, rows, scale
from benchmarks.convergence import conclusion
from benchmarks.rows import difference_from_reference
from groundwork.errors import InputError
from groundwork.files import read_json
from microdoppler.data.latents import LatentStatistics, load_cached

CPU = torch.device("cpu")


def test_alternating_takes_turns_and_gives_the_medians_of_what_is_counted(monkeypatch):
    calls, seconds = [], iter([9, 9, 1, 40, 3, 20, 2, 30])      # ours, theirs, ours …; the first of each is no count
    monkeypatch.setattr(measure, "time_once", lambda function, device: function() or next(seconds))
    pair = measure.alternate(partial(calls.append, "a"), partial(calls.append, "b"), repeats=3, device=CPU)
    assert pair == [2, 30] and "".join(calls) == "abababab"


def test_a_rate_is_of_the_best_repeat(monkeypatch):
    seconds = iter([4.0, 2.0, 8.0])
    monkeypatch.setattr(measure, "time_once", lambda function, device: next(seconds))
    assert measure.rate(lambda: None, flop=6e9, device=CPU, calls=10, repeats=3) == pytest.approx(10 * 6e9 / 2)


def test_made_up_latents_are_what_training_opens(tmp_path):
    config = replace(measure.FULL_SIZE, num_users=3, latent_size=4)
    scale.make_cache(tmp_path, config, 10)
    index = scale.read_json(tmp_path / "latents.json")
    cache = load_cached(tmp_path, LatentStatistics(**index["statistics"]))
    assert len(cache) == 10 and cache.posteriors.dtype == np.float16 and set(cache.labels.tolist()) == {0, 1, 2}
    latents, labels = cache.draw(torch.arange(10), torch.Generator().manual_seed(0))
    assert latents.shape == (10, 4, 4, 4) and labels.tolist() == cache.labels.tolist()


def test_an_unknown_row_is_named():
    from benchmarks.__main__ import main
    with pytest.raises(InputError, match="sorting"):
        main(device="cpu", only=("sorting",))


def test_convergence_names_the_first_milestone_that_is_as_good_as_the_references_last():
    rows = [{"step": 100, "ours": {"kid": 0.9}}, {"step": 200, "ours": {"kid": 0.4}},
            {"step": 300, "ours": {"kid": 0.2}, "reference": {"kid": 0.5}}]
    assert "0.50 after 300 steps, is reached by step 200: 0.67 of its steps" in conclusion(rows, "ours")
    rows = [rows[0], {"step": 1000, "reference": {"kid": 0.9}}]
    assert "is reached by step 100: 0.10 of its steps" in conclusion(rows, "ours")
    rows[1]["reference"]["kid"] = 0.6
    assert "0.60, is not reached" in conclusion(rows, "ours")


def test_convergence_concludes_nothing_from_what_could_not_be_measured():
    def rows(ours, reference):
        return [{"step": 100, "ours": {"kid": ours}}, {"step": 300, "reference": {"kid": reference}}]
    for unknown in (rows(0.4, math.nan), rows(math.nan, 0.5), rows(math.nan, math.nan)):
        assert "unknown" in conclusion(unknown, "ours") and "reached" not in conclusion(unknown, "ours")
    assert "is reached by step 200" in conclusion([*rows(math.nan, 0.5), {"step": 200, "ours": {"kid": 0.4}}], "ours")


@pytest.mark.parametrize("version", reference.VERSIONS)
def test_our_network_gives_the_references_outputs_for_the_same_weights(version):
    try:
        reference.wheel(version)
    except InputError:
        pytest.skip("no wheel of the reference, and no internet")
    config = replace(measure.FULL_SIZE, dim=16, latent_size=8, num_users=4)
    assert difference_from_reference(config, version) < 1e-5


def test_a_reference_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    """pip looks into an empty folder only, as on a machine without internet."""
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InputError, match=r"0\.0\.1-py3.*No matching distribution.*python -m benchmarks\.reference"):
        reference.wheel("0.0.1")


def test_the_faster_reference_counts(capsys, monkeypatch, tmp_path):
    from benchmarks import __main__ as command
    row = rows.Row("step", lambda bench: (1.0, {"a": 6.0, "b": 4.0}), lambda bench: 1.0, (2, 2), (4, 4))
    monkeypatch.setattr(command, "ROWS", {"sorting": row})
    monkeypatch.setattr(command, "difference_from_reference", lambda config, version: 0.0)
    monkeypatch.setattr(command, "simulate_dataset", lambda *arguments: None)
    command.main(device="cpu", json=tmp_path / "speed.json")
    found = read_json(tmp_path / "speed.json")["rows"]["sorting"]
    assert found["ratio"] == 4.0 and found["seconds_of_references"] == {"a": 6.0, "b": 4.0}
    assert "6.00 s (a), 4.00 s (b) | 4.00 |" in capsys.readouterr().out
