"""The five steps and the demo, as a user runs them, at a tiny size."""
import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import DEMO_SIZE, ROOT, TINY
from PIL import Image

import generate
from groundwork.errors import InputError
from groundwork.files import load_tensors, read_json, write_json
from microdoppler.data.latents import LatentCache, LatentStatistics, load_cached, load_or_encode
from microdoppler.data.stitching import Cut, window_of
from microdoppler.data.synthetic_sets import started_from
from microdoppler.pipeline.generation import ImageGenerator, Sampling
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE


def test_demo_goes_from_radar_to_a_report(demo):
    folder, out = demo
    assert out.strip().endswith(str(folder / "report.html"))
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6 and "src=\"http" not in page
    for stage in ("simulate", "train the VAE", "train the diffusion model", "generate", "classify"):
        assert stage in page
    assert {path.name for path in (folder / "results").glob("model-*.pt")} == {"model-1.pt", "model-2.pt", "model-3.pt"}
    for name in ("sample-1.png", "sample-3.png", "vae_reconstruction.png", "training.png", "classify/gains.png"):
        assert Image.open(folder / "results" / name).size[0] > 100
    records = [json.loads(line) for line in (folder / "results" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == [3, 6, 9, 12]
    assert [r["milestone"] for r in records if "milestone" in r] == [1, 2, 3]
    for record in records:      # one pass of a user alone has no diversity
        assert all(np.isfinite(value) for name, value in record.items() if name != "held_out_diversity")


def test_demo_run_again_goes_on_without_repeating(script, demo):
    folder, _ = demo
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    images = {path: path.read_bytes() for path in (folder / "synthetic").rglob("*.png")}
    script("demo.py", "--output_dir", folder, *TINY, *DEMO_SIZE)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before
    assert {path: path.read_bytes() for path in (folder / "synthetic").rglob("*.png")} == images


def test_synthetic_folder_is_laid_out_like_the_real_one(demo):
    folder, _ = demo
    manifest = json.loads((folder / "synthetic" / "manifest.json").read_text())
    for user in (1, 2, 3):
        files = sorted((folder / "synthetic" / f"ID_{user}").iterdir())
        assert len(files) == 3 and all(Image.open(file).size == (64, 64) for file in files)
    assert manifest["sampler"] == "dpmpp_2m" and manifest["step"] == 12
    seeds = [entry["seed"] for entry in manifest["images"].values()]
    assert len(set(seeds)) == 9


def test_every_checkpoint_and_config_json_hold_the_whole_config(demo):
    folder, _ = demo
    names = {field.name for field in fields(Config)}
    saved = json.loads((folder / "results" / "config.json").read_text())
    assert set(saved) == names and saved["dim"] == 16
    for number in (1, 3):
        assert load_tensors(folder / "results" / f"model-{number}.pt")["config"] == saved


def test_generation_rebuilds_the_network_from_the_checkpoint_not_from_todays_constants(script, demo, tmp_path):
    folder, _ = demo        # dim 16 and 3 users, where Config says 48 and 31
    checkpoint = folder / "results" / "model-3.pt"
    script("generate.py", "--checkpoint", checkpoint, "--user-id", "3", "1", "--num-samples", "2", "--output-dir",
           tmp_path / "out", "--cond_scale", "1", "--save_grid")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ID_1", "ID_3", "manifest.json"}
    assert (tmp_path / "out_grid.png").exists()


def test_generation_is_independent_of_batch_size_and_makes_only_what_is_missing(script, demo, tmp_path):
    folder, _ = demo
    def generate(batch_size):
        script("generate.py", "--checkpoint", folder / "results" / "model-3.pt", "--all_users", "--samples_per_user",
               "3", "--output_dir", tmp_path / "out", "--batch_size", batch_size)
        return {path.name: np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "out").rglob("*.png")}
    first = generate(5)
    victim = tmp_path / "out" / "ID_2" / "ID2_synthetic_Doppler2.png"
    kept = tmp_path / "out" / "ID_2" / "ID2_synthetic_Doppler1.png"
    victim.unlink()
    modified = kept.stat().st_mtime_ns
    second = generate(1)
    assert kept.stat().st_mtime_ns == modified and len(second) == 9
    assert all(abs(first[name] - second[name]).max() <= 2 for name in first)
    script("generate.py", "--checkpoint", folder / "results" / "model-3.pt", "--all_users", "--output_dir",
           tmp_path / "out", "--seed", "1", expect=2)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest.pop("noise_level") == 1.0       # as in manifests made before there was a choice
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    assert len(generate(5)) == 9


def test_generation_from_training_images_resembles_those_of_its_user_the_more_the_less_noise(demo):
    folder, _ = demo
    checkpoint = load_tensors(folder / "results" / "model-3.pt")
    def resemblance(noise_level):       # of each image, the highest correlation with one of its user's training images
        generator = ImageGenerator.load(folder / "results" / "model-3.pt", torch.device("cpu"),
                                        Sampling(noise_level=noise_level, cond_scale=1))
        cache = load_cached(folder / "latents_cache", LatentStatistics(**checkpoint["latent_statistics"]))
        decoded = flat(generator.vae.decode_latents(cache.scaled_means(torch.arange(len(cache)))))
        drawn = flat(generator.sample_images([1, 2, 3] * 4, list(range(12))).permute(0, 3, 1, 2).float())
        of_another = torch.tensor([0, 1, 2] * 4)[:, None] != cache.labels
        return (drawn @ decoded.T).masked_fill(of_another, -1).max(dim=1).values
    def flat(images):
        images = images.flatten(1) - images.flatten(1).mean(dim=1, keepdim=True)
        return images / images.norm(dim=1, keepdim=True)
    little, much, noise_alone = resemblance(0.25), resemblance(0.75), resemblance(1.0)
    assert little.min() > 0.7 and little.mean() > much.mean() + 0.05 > noise_alone.mean() + 0.1


def test_a_checkpoint_refuses_the_latents_of_some_of_its_users(demo, tmp_path):
    folder, _ = demo
    index = json.loads((folder / "latents_cache" / "latents.json").read_text())
    own = [window_of(name) for name, label in zip(index["images"], index["labels"]) if label < 2]
    load_or_encode(KL_VAE.load(folder / "kl_vae_best.pt"), folder / "data", [Cut(path) for path in own],
                   torch.zeros(len(own), dtype=torch.int64), image_size=64, folder=tmp_path, batch_size=16,
                   device=torch.device("cpu"))
    with pytest.raises(InputError, match="holds other latents than the checkpoint was trained on"):
        ImageGenerator.load(folder / "results" / "model-3.pt", "cpu", Sampling(noise_level=0.5),
                            latents_cache_folder=tmp_path)


def test_the_manifest_says_which_training_window_an_image_is_a_variation_of(demo, tmp_path, capsys, monkeypatch):
    drawn, draw = [], LatentCache.draw

    def watched_draw(cache, indices, generator):
        drawn.extend(window_of(cache.names[index]) for index in indices.tolist())
        return draw(cache, indices, generator)
    monkeypatch.setattr(LatentCache, "draw", watched_draw)
    generate.main(checkpoint=demo[0] / "results" / "model-3.pt", user_id=(2,), num_samples=8, device="cpu",
                  sampling=Sampling(noise_level=0.5), output_dir=tmp_path / "out")
    images = read_json(tmp_path / "out" / "manifest.json")["images"]
    assert [entry["start"] for entry in images.values()] == drawn and len(set(drawn)) > 1
    assert set(drawn) <= set(read_json(demo[0] / "latents_cache" / "data_split.json")["users"]["2"]["train_images"])
    assert started_from(tmp_path / "out") == dict(zip(images, drawn))
    capsys.readouterr()
    older = {name: {"user": 2, "seed": entry["seed"]} for name, entry in images.items()}
    write_json(tmp_path / "out" / "manifest.json", {"noise_level": 0.01, "images": older})
    assert started_from(tmp_path / "out") == {} and "run generate.py again" in capsys.readouterr().out
    write_json(tmp_path / "out" / "manifest.json", {"noise_level": 1.0, "images": older})
    assert started_from(tmp_path / "out") == {} and capsys.readouterr().out == ""


def test_training_refuses_to_overwrite_and_resumes(script, demo, paths, tmp_path):
    script("train_latent_cfg.py", *paths, "--train_num_steps", "5")
    _, err = script("train_latent_cfg.py", *paths, expect=2)
    assert "--resume latest" in err and err.count("\n") == 1
    _, err = script("train_latent_cfg.py", *paths, "--dim", "8", "--resume", "latest", expect=2)
    assert "dim 16 (now 8)" in err
    out, _ = script("train_latent_cfg.py", *paths, "--train_num_steps", "5", "--resume", "latest")
    assert "resumed at step 5: train_num_steps = 5 is reached; raise it" in out
    script("train_latent_cfg.py", *paths, "--resume", "latest")
    folder, _ = demo
    resumed, whole = (load_tensors(where / "model-3.pt") for where in (tmp_path / "results", folder / "results"))
    assert resumed["step"] == whole["step"] == 12
    assert all(torch.equal(resumed["ema"][key], whole["ema"][key]) for key in whole["ema"])
    assert all(torch.equal(resumed["model"][key], whole["model"][key]) for key in whole["model"])


def test_sigterm_saves_and_a_second_training_in_the_folder_is_refused_meanwhile(script, demo, paths, tmp_path):
    long = [*paths, "--train_num_steps", "100000", "--save_and_sample_every", "100000", "--log_every", "1"]
    metrics = tmp_path / "results" / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, "train_latent_cfg.py", *long], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.1)
    _, err = script("train_latent_cfg.py", *long, expect=2)
    assert f"is being written to by process {process.pid} on " in err and err.count("\n") == 1
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "SIGTERM: step" in out and "the same command with --resume latest" in out
    saved = load_tensors(tmp_path / "results" / "model-1.pt")
    assert saved["step"] == json.loads(metrics.read_text().splitlines()[-1])["step"] > 0
    with open(metrics, "a") as file:        # as a kill may leave it
        file.write('{"step": 99')
    out, _ = script("train_latent_cfg.py", *long, "--resume", "latest", "--max_train_hours", "0.000001")
    assert f"resumed at step {saved['step']}" in out and "the time is up: step" in out
    steps = [json.loads(line).get("step") for line in metrics.read_text().splitlines() if line.endswith("}")]
    assert steps[-1] == load_tensors(tmp_path / "results" / "model-1.pt")["step"] == saved["step"] + 1


def test_what_will_not_fit_on_the_disk_is_refused_before_training(script, paths, tmp_path):
    _, err = script("train_latent_cfg.py", *paths, "--train_num_steps", "1000000000", "--save_and_sample_every", "1",
                    expect=2)
    assert "GB are needed in" in err and "lower keep_last" in err
    assert not list((tmp_path / "results").glob("*.pt"))


def test_a_picture_that_a_kill_prevented_is_drawn_on_resuming(script, paths, tmp_path):
    script("train_latent_cfg.py", *paths, "--train_num_steps", "10")
    before = (tmp_path / "results" / "sample-2.png").read_bytes()
    (tmp_path / "results" / "sample-2.png").unlink()
    script("train_latent_cfg.py", *paths, "--train_num_steps", "10", "--resume", "latest")
    assert (tmp_path / "results" / "sample-2.png").read_bytes() == before


def test_resuming_from_an_earlier_milestone_sets_the_later_ones_aside(script, demo, paths, tmp_path):
    folder, _ = demo
    shutil.copytree(folder / "results", tmp_path / "results")
    old = (tmp_path / "results" / "model-3.pt").read_bytes()
    script("train_latent_cfg.py", *paths, "--resume", "1", "--train_lr", "0.1")
    results = tmp_path / "results"
    assert sorted(path.name for path in (results / "abandoned-1").iterdir()) == [
        "model-2.pt", "model-3.pt", "sample-2.png", "sample-3.png"]
    assert (results / "abandoned-1" / "model-3.pt").read_bytes() == old
    assert sorted(path.name for path in results.glob("model-*.pt")) == ["model-1.pt", "model-2.pt", "model-3.pt"]
    assert load_tensors(results / "model-3.pt")["opt"]["param_groups"][0]["lr"] == 0.1


def test_monitor_reads_a_finished_run(script, demo):
    folder, _ = demo
    out, _ = script("monitor_training.py", "--results_folder", folder / "results")
    assert "step 12 of 12 (100.0%), milestone 3 of 3" in out and "complete" in out


def test_help_shows_every_constant_with_its_reason_and_default(script):
    for name in ("train_latent_cfg.py", "test_vae_range.py", "classify.py", "monitor_training.py"):
        out, _ = script(name, "--help")
        assert all(f"--{field.name}" in out for field in fields(Config))
        words = " ".join(out.replace("│", " ").split())
        assert "optimisation steps (default: 150000)" in words


def test_images_never_seen_in_training_do_not_influence_it(script, demo, paths, tmp_path):
    """Other test images, same training images: bit-identical VAE, latents and diffusion model."""
    folder, _ = demo
    split = json.loads((folder / "latents_cache" / "data_split.json").read_text())
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    rng = np.random.default_rng(0)
    for user in split["users"].values():
        for name in user["test_images"]:
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(data / name)
    cache = tmp_path / "latents_cache"
    cache.mkdir()
    shutil.copy(folder / "latents_cache" / "data_split.json", cache)
    script("-m", "vae.train", "--data_path", data, "--split", cache / "data_split.json", "--output",
           tmp_path / "vae.pt", "--image_size", "64", "--ch", "8", "--ch_mult", "1", "2", "4", "--num_steps", "10",
           "--num_res_blocks", 1, "--batch_size", 8, "--lr", 4e-3, "--kl_weight", 0.002)      # as demo.py's
    ours, theirs = (load_tensors(path)["model_state_dict"] for path in (tmp_path / "vae.pt", folder / "kl_vae_best.pt"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    script("train_latent_cfg.py", *paths, "--data_path", data, "--latents_cache_folder", cache,
           "--vae_path", tmp_path / "vae.pt")
    ours, theirs = (load_tensors(where / "model-3.pt") for where in (tmp_path / "results", folder / "results"))
    assert all(torch.equal(ours["ema"][key], theirs["ema"][key]) for key in ours["ema"])
    assert ours["latent_statistics"] == theirs["latent_statistics"]


def launch_two(*arguments):
    """Run a script as two processes, as accelerate starts them on GPUs; returns its standard output."""
    done = subprocess.run(      # without a GPU accelerate starts a single process
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on 2 x the CPU" in done.stdout      # else nothing is tested
    return done.stdout


def test_two_processes_train_as_one_does(demo, paths, tmp_path):
    """From nothing but images and VAE: one process encodes, both train with their half of each step, and the weights
    agree up to rounding with those of the demo, which takes the 32 images of a step at once."""
    folder, _ = demo
    cache = tmp_path / "latents_cache"
    out = launch_two("train_latent_cfg.py", *paths, "--latents_cache_folder", cache, "--device", "cpu",
                     "--train_batch_size", "8", "--gradient_accumulate_every", "4")
    assert out.count("wrote model-3.pt") == out.count("split: ") == 1
    assert len((cache / "latents.json").read_text()) > 0
    ours, theirs = (load_tensors(where / "model-3.pt") for where in (tmp_path / "results", folder / "results"))
    assert ours["step"] == 12
    for key, value in theirs["model"].items():
        assert torch.allclose(ours["model"][key], value, rtol=1e-2, atol=1e-3), key


def test_two_processes_share_out_the_images_and_make_the_same_ones(script, demo, tmp_path):
    folder, _ = demo
    def generate(how, name):
        out = how("generate.py", "--checkpoint", folder / "results" / "model-3.pt", "--all_users", "--samples_per_user",
                  "3", "--output_dir", tmp_path / name / "set", "--device", "cpu", "--save_grid")
        images, control = ({path.name: np.asarray(Image.open(path)).astype(int) for path in part.rglob("ID*.png")}
                           for part in (tmp_path / name / "set", tmp_path / name / "set_control"))
        assert len(control) > 9 + 30
        assert f"control set: {len(control)} images generated" in out
        return images | control, json.loads((tmp_path / name / "set" / "manifest.json").read_text()), out
    one, manifest, _ = generate(lambda *arguments: script(*arguments)[0], "one")
    two, same_manifest, out = generate(lambda *arguments: script(*arguments, processes=2)[0], "two")
    assert "on 2 x the CPU" in out
    assert two.keys() == one.keys() and manifest == same_manifest
    assert all(abs(one[name] - two[name]).max() <= 1 for name in one)
    assert out.count("\n9 images generated") == out.count("control set: ") == 1
    assert (tmp_path / "two" / "set_grid.png").exists()


def test_tensorboard_is_told_what_the_metrics_and_the_pictures_say(demo):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    results = demo[0] / "results"
    found = event_accumulator.EventAccumulator(str(results / "trackers" / "microdoppler-diffusion"),
                                                 {event_accumulator.HISTOGRAMS: 0})      # 0: keep all
    found.Reload()
    lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    for kind, name in (("training", "loss"), ("training", "lr"), ("milestone", "class_gain")):
        told = [(event.step, event.value) for event in found.Scalars(f"{kind}/{name}")]
        assert told == [(line["step"], pytest.approx(line[name])) for line in lines if name in line]
    for event, number in zip(found.Images("samples"), (1, 2, 3), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert (shown == np.asarray(Image.open(results / f"sample-{number}.png").convert("RGB"))).all()
    (training,) = found.Histograms("latents_channel_0/training")
    assert 0.7 < (training.histogram_value.sum_squares / training.histogram_value.num) ** 0.5 < 1.4   # standardized
    assert [event.step for event in found.Histograms("latents_channel_0/samples")] == [5, 10, 12]
