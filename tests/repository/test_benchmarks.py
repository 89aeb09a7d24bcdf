"""The benchmarks' arithmetic; no test asserts a time."""
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import measure, scale
from benchmarks.convergence import conclusion
from groundwork.errors import InputError
from microdoppler.data.latents import LatentStatistics, load_cached

CPU = torch.device("cpu")


def test_alternating_takes_turns_and_gives_the_medians_of_what_is_counted(monkeypatch):
    calls, seconds = [], iter([9, 9, 1, 40, 3, 20, 2, 30])      # ours, theirs, ours …; the first of each is no count
    monkeypatch.setattr(measure, "time_once", lambda function, device: function() or next(seconds))
    pair = measure.alternate(partial(calls.append, "a"), partial(calls.append, "b"), repeats=3, device=CPU)
    assert pair == (2, 30) and "".join(calls) == "abababab"


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
