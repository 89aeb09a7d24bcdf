"""Two processes that know of each other, as `accelerate launch --num_processes 2` starts them, do the work of one."""
import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_classify import NUM_USERS, write_users
from test_training import make_trainer, run, weights

import classify
from groundwork.files import load_arrays, read_json
from microdoppler.data.latents import load_or_encode
from microdoppler.data.stitching import Cut
from microdoppler.pipeline.constants import option_words
from train_latent_cfg import PRESETS
from vae.kl_vae import KL_VAE

def runs_of(folder):
    """The rows of runs.csv without the time that they took."""
    with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_they_share_the_runs_of_a_study_which_are_those_of_one(tmp_path, script, one_thread, monkeypatch):
    data_path = write_users(tmp_path / "data", range(1, NUM_USERS + 1), 12, seed=0)
    config = replace(PRESETS["cpu-minutes"], data_path=data_path, results_folder=tmp_path / "results",
                     latents_cache_folder=tmp_path / "cache", num_users=NUM_USERS, images_per_user_train=5,
                     split_guard=2, classifier="shufflenet_v2_x0_5", classifier_image_size=32, classifier_epochs=1,
                     classifier_batch_size=8, classifier_seeds=2, classifier_augmentations=())
    sets = [write_users(tmp_path / "set", range(1, NUM_USERS + 1), 4, seed=1)]
    one = classify.main(config, synthetic=tuple(sets), save_models=True)
    folder = config.results_folder / "classify"
    alone = folder.rename(tmp_path / "alone")
    out, _ = script("classify.py", *option_words(config, vars(config)), "--synthetic", *sets, "--save_models",
                    processes=2)
    assert "on 2 x the CPU" in out and out.count("report: ") == 1 and "classifier 1/" not in out
    assert runs_of(folder) == runs_of(alone) and len(runs_of(folder)) == 6
    names = {path.name for path in (alone / "predictions").iterdir()}
    assert names == {path.name for path in (folder / "predictions").iterdir()} and len(names) == 6
    for name in names:
        ours, theirs = (load_arrays(where / "predictions" / name) for where in (folder, alone))
        assert np.array_equal(ours["probabilities"], theirs["probabilities"])
    assert read_json(folder / "models" / "models.json") == read_json(alone / "models" / "models.json")
    for path in (alone / "models").glob("*.safetensors"):
        ours, theirs = load_file(folder / "models" / path.name), load_file(path)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list(folder.rglob(".*"))     # neither locks nor temporary files are left
    monkeypatch.setattr("microdoppler.study.runs.train_classifier", lambda *_, **__: pytest.fail("trained again"))
    assert json.dumps(classify.main(config, synthetic=tuple(sets), save_models=True)) == json.dumps(one)


def encode(images, cache):
    torch.manual_seed(0)
    vae = KL_VAE({"ch": 8, "ch_mult": (1, 1), "num_res_blocks": 1}).eval().requires_grad_(False)
    cuts = [Cut(path.name) for path in sorted(Path(images).glob("*.png"))]
    load_or_encode(vae, images, cuts, torch.zeros(len(cuts), dtype=torch.int64), image_size=16, folder=cache,
                   batch_size=2, device=torch.device("cpu"))


def test_they_encode_the_file_that_one_encodes(tmp_path, call_in_two, one_thread):
    """Five images in batches of 2: the main process has the first and the last batch."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    encode(tmp_path / "images", tmp_path / "by_1")
    call_in_two(encode, tmp_path / "images", tmp_path / "by_2")
    for name in ("latents.npy", "latents.json"):
        assert (tmp_path / "by_2" / name).read_bytes() == (tmp_path / "by_1" / name).read_bytes()
    written = (tmp_path / "by_2" / "latents.npy").stat().st_mtime_ns
    call_in_two(encode, tmp_path / "images", tmp_path / "by_2")
    assert (tmp_path / "by_2" / "latents.npy").stat().st_mtime_ns == written
    assert len(list((tmp_path / "by_2").iterdir())) == 2


def train_with_a_nan(folder):
    """Four steps; the last image of the second one's batch, which the second of two processes has, is NaN."""
    trainer = make_trainer()
    draw = trainer.get_batch

    def spoilt(indices, generator):
        x, classes = draw(indices, generator)
        if trainer.step == 1:
            x[-1] = math.nan
        return x, classes
    trainer.get_batch = spoilt
    records, _ = run(trainer, 4)
    torch.save((weights(trainer).detach(), records), Path(folder, f"{trainer.accelerator.process_index}.pt"))


def test_nan_in_the_half_of_one_process_skips_the_step_in_both(tmp_path, call_in_two, one_thread):
    (tmp_path / "alone").mkdir()
    train_with_a_nan(tmp_path / "alone")
    call_in_two(train_with_a_nan, tmp_path)
    alone, records = torch.load(tmp_path / "alone" / "0.pt")
    (main, told), (other, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(main, other) and main.isfinite().all() and torch.allclose(main, alone, rtol=1e-3, atol=1e-5)
    assert [record["skipped_steps"] for record in told] == [0, 1, 1, 1]
    assert [record["loss"] for record in told] == pytest.approx([record["loss"] for record in records], rel=1e-4,
                                                                nan_ok=True)
    assert [math.isnan(record["loss"]) for record in told] == [False, True, False, False]
