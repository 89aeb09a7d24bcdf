"""monitor_training.py on metrics made up with one illness each."""
import dataclasses
import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import monitor_training
from microdoppler.pipeline import monitoring
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from groundwork.errors import InputError
from groundwork.files import to_json
from groundwork.limits import to_plain
from microdoppler.watch.diagnosis import diagnose
from microdoppler.watch.metrics import read_metrics, smooth
from microdoppler.watch.plot import plot
from microdoppler.watch.run_settings import Finding
from train_latent_cfg import Config

TOTAL, MILESTONE_EVERY, LOG_EVERY = 150000, 2000, 50
START_STANDARDIZED, START_RAW = 1.0, 0.21


def training_line(step: int, loss: float, **other) -> dict:
    return {"step": step, "loss": loss, "grad_norm": 0.2, "lr": 1e-4, "images_per_second": 100.0,
            "wall_time": step * 0.16, **other}


def milestone_line(step: int, **other) -> dict:
    return {"step": step, "milestone": -(-step // MILESTONE_EVERY), "class_gain": 0.04, "speckle": 0.95,
            "speckle_of_vae": 0.97, "radial_db": 0.5, "doppler_db": 0.4, "recognised": 0.9, "diversity": 0.95,
            "copies": 0.0, **other}


def standardized(step: int) -> float:
    """As measured: 0.62 after 500 steps, 0.48 after 4000, then slowly on."""
    return START_STANDARDIZED * max(0.4, (1 + step / 60) ** -0.18)


def raw(step: int) -> float:
    """The issue's figures: 0.5, 0.05 at 30k of 150k, 0.01 at 80k, below 0.01 at the end."""
    return math.exp(np.interp(step, (0, 30000, 80000, 150000), np.log((0.5, 0.05, 0.01, 0.004))))


def write_run(folder: Path, loss=standardized, *, steps: int = TOTAL, line=lambda step: {}, milestone=lambda step: {},
              **config) -> Path:
    """A run's folder; `line` and `milestone` give what differs from a healthy line at a step."""
    folder.mkdir(parents=True, exist_ok=True)
    if not config.get("standardize_latents", True):
        config = {"min_loss_weight": 0.0, **config}     # as in the runs whose figures raw() has
    settled = {"num_users": 31} | config        # a run knows how many they are
    (folder / "config.json").write_text(json.dumps(to_plain(dataclasses.replace(Config(), **settled))))
    scatter, lines = np.random.default_rng(0), []
    for step in range(LOG_EVERY, steps + 1, LOG_EVERY):
        lines.append({**training_line(step, loss(step) * scatter.normal(1, 0.06)), **line(step)})
        if step % MILESTONE_EVERY == 0 or step == config.get("train_num_steps"):
            lines.append({**milestone_line(step), **milestone(step)})
    (folder / "metrics.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))     # as append_json
    return folder


def names(folder: Path) -> list[str]:
    settings = monitoring.read_settings(folder / "config.json")
    return [finding.name for finding in diagnose(read_metrics(folder / "metrics.jsonl"), settings)]


@pytest.mark.parametrize("loss, standardize, steps", [(standardized, True, 500), (standardized, True, TOTAL),
                                                      (raw, False, TOTAL), (lambda step: 0.62, True, 5000)])
def test_curves_have_labels_and_the_last_milestone_lies_within_the_frame(tmp_path, loss, standardize, steps):
    folder = write_run(tmp_path / "run", loss, steps=steps, standardize_latents=standardize, train_num_steps=steps)
    axis = plot(read_metrics(folder / "metrics.jsonl"), monitoring.read_settings(folder / "config.json")).axes[0]
    low, high = axis.get_ylim()
    assert 3 <= sum(low <= tick <= high for tick in axis.get_yticks()) <= 12
    assert axis.get_xlim()[1] > 1.01 * steps


# ---------------------------------------------------------------------------------------------------- diagnosis

@pytest.mark.parametrize("steps", [50, 500, 5000, 50000, TOTAL])
@pytest.mark.parametrize("loss, standardize", [(standardized, True), (raw, False)])
def test_a_healthy_run_is_well_at_every_stage(tmp_path, loss, standardize, steps):
    assert names(write_run(tmp_path, loss, steps=steps, standardize_latents=standardize)) == []


def test_a_healthy_short_run_is_held_to_its_own_length(tmp_path):
    def stretched(step):
        return raw(step * TOTAL / 6000)
    assert names(write_run(tmp_path, stretched, steps=6000, train_num_steps=6000, standardize_latents=False)) == []


ILLNESSES = {
    "loss not falling": dict(loss=lambda step: START_STANDARDIZED, steps=4000),
    "loss not falling, raw": dict(loss=lambda step: START_RAW, steps=30000, standardize_latents=False),
    "loss not falling, wrong range": dict(loss=lambda step: 2.0, steps=4000),
    "plateau": dict(loss=lambda step: START_STANDARDIZED * 0.8, steps=90000),
    "plateau, raw": dict(loss=lambda step: 0.06, steps=90000, standardize_latents=False),
    "unstable, spikes": dict(line=lambda step: {"loss": 3.0} if step % 2500 == 0 else {}),
    "unstable, diverging": dict(loss=lambda step: standardized(step) * max(1, step / 70000) ** 2),
    "NaN": dict(line=lambda step: {"loss": math.nan, "grad_norm": math.nan} if step > 90000 else {},
                milestone=lambda step: dict.fromkeys(["class_gain", "speckle", "recognised", "diversity", "copies"],
                                                       math.nan) if step > 90000 else {}),
    "NaN, gradients": dict(line=lambda step: {"grad_norm": math.inf} if step % 500 == 0 else {}),
    "users not distinguishable": dict(milestone=lambda step: {"class_gain": 0.0005}),
    "blurred samples": dict(milestone=lambda step: {"speckle": 0.5}),
    "noisy samples": dict(milestone=lambda step: {"speckle": 1.8}),
    "users not distinguishable, by a classifier": dict(milestone=lambda step: {"recognised": 0.3}),
    "collapsing": dict(milestone=lambda step: {"diversity": 0.3}),
    "memorising": dict(milestone=lambda step: {"copies": step / TOTAL / 2}),
    "slow": dict(line=lambda step: {"images_per_second": 40.0} if step > 130000 else {}),
}


@pytest.mark.parametrize("illness", ILLNESSES)
def test_an_illness_gives_its_finding_and_no_other(tmp_path, illness):
    assert names(write_run(tmp_path, **ILLNESSES[illness])) == [illness.split(",")[0]]


@pytest.mark.parametrize("harmless", [
    dict(line=lambda step: {"loss": 3.0} if step == 100000 else {}),                    # one spike, clipped
    dict(line=lambda step: {"grad_norm": math.inf} if step < 500 else {}),              # fp16 finds its loss scale
    dict(milestone=lambda step: {"speckle": 2.5, "class_gain": 0} if step < 20000 else {}),   # still early
    dict(milestone=lambda step: {"speckle": 0.3} if step == TOTAL else {}),           # one odd milestone
    dict(milestone=lambda step: {"class_gain": 0.0}, num_users=1),                      # nobody to confuse
], ids=["spike", "loss scale", "early", "odd milestone", "one user"])
def test_what_is_harmless_is_not_reported(tmp_path, harmless):
    assert names(write_run(tmp_path, **harmless)) == []


def remedies(folder: Path, **run) -> str:
    write_run(folder, **run)
    settings = monitoring.read_settings(folder / "config.json")
    return diagnose(read_metrics(folder / "metrics.jsonl"), settings)[0].remedy


def test_remedies_speak_of_the_runs_own_constants(tmp_path):
    sick = dict(milestone=lambda step: {"class_gain": 0.0005}, cond_scale=4.0)
    too_high = remedies(tmp_path, **sick, cond_drop_prob=0.7)
    assert "; train a new model with cond_drop_prob 0.5, the default of this preset (now 0.7); until then" in too_high
    older = remedies(tmp_path, **sick, loss=lambda step: 0.326 * standardized(step), min_loss_weight=0.0)
    assert "; train a new model with min_loss_weight 1 (now 0)" in older
    usual = remedies(tmp_path, **sick)
    assert "cond_drop_prob" not in usual and "cond_scale 5 (now 4)" in usual
    assert "cond_drop_prob 0.15, the default" in remedies(tmp_path, **sick, preset="cpu-hours", cond_drop_prob=0.5)
    assert "generate" not in remedies(tmp_path, **{**sick, "cond_scale": 1.0}, use_cfg_plus_plus=True)
    assert "cond_scale 0.8 (now 0.4)" in remedies(tmp_path, **{**sick, "cond_scale": 0.4}, use_cfg_plus_plus=True)
    same = dict(milestone=lambda step: {"diversity": 0.1})
    assert "cond_scale 2 (now 4)" in remedies(tmp_path, **same, cond_scale=4.0)
    assert "cond_scale 0.3 (now 0.6)" in remedies(tmp_path, **same, cond_scale=0.6, use_cfg_plus_plus=True)
    assert remedies(tmp_path, **same, cond_scale=1.0).startswith("train longer")      # no milestone was better
    both = remedies(tmp_path, milestone=lambda step: {"recognised": 0.3, "speckle": 1.8}, cond_scale=4.0)
    assert "train longer" in both and "cond_scale" not in both      # the other finding asks to lower it
    stuck = ILLNESSES["loss not falling"]
    assert remedies(tmp_path, **stuck, train_lr=1e-6).startswith("train_lr 0.0001 (now 1e-06")
    assert remedies(tmp_path, **stuck, train_lr=0.03).startswith("train_lr 0.001 (now 0.03")
    assert remedies(tmp_path, **stuck, train_lr=0.002).startswith("train_lr 0.00067 (now 0.002")
    assert remedies(tmp_path, **ILLNESSES["loss not falling, wrong range"]).startswith("python test_vae_range.py")
    assert "standardize_latents = True" in remedies(tmp_path, **ILLNESSES["loss not falling, raw"])
    assert "standardize_latents" not in remedies(tmp_path, **stuck)


def findings(folder: Path, **run) -> dict[str, Finding]:
    write_run(folder, **run)
    settings = monitoring.read_settings(folder / "config.json")
    return {finding.name: finding for finding in diagnose(read_metrics(folder / "metrics.jsonl"), settings)}


@pytest.mark.parametrize("train_lr", [1e-4, 3e-4, 1e-3])
def test_a_learning_rate_that_suits_the_network_is_not_blamed(tmp_path, train_lr):
    found = findings(tmp_path, **ILLNESSES["loss not falling"], train_lr=train_lr)["loss not falling"]
    assert "learning rate" not in found.meaning and "train_lr" not in found.remedy
    assert found.remedy.startswith("python test_vae_range.py")


def test_only_what_failed_is_shown_as_evidence(tmp_path):
    ignored = findings(tmp_path, milestone=lambda step: {"class_gain": 0.0005})["users not distinguishable"]
    assert "rises by 0.05%" in ignored.seen and "classifier" not in ignored.seen
    assert "wrong label" not in ignored.meaning
    mistaken = findings(tmp_path, milestone=lambda step: {"recognised": 0.3})["users not distinguishable"]
    assert "30% of the samples" in mistaken.seen and "loss rises" not in mistaken.seen
    overflow = findings(tmp_path, **ILLNESSES["NaN, gradients"])["NaN"]
    assert "gradient norm" in overflow.seen and "loss" not in overflow.seen


def test_a_run_that_does_not_tell_users_apart_yet_is_to_be_trained_longer(tmp_path):
    """Its class gain still rises: an earlier milestone would be worse."""
    rising = dict(steps=1200, train_num_steps=1200, save_and_sample_every=400,
                  milestone=lambda step: {"class_gain": step / 1e6, "recognised": 0.2})
    remedy = findings(tmp_path, **rising)["users not distinguishable"].remedy
    assert remedy.startswith("train longer (train_num_steps, now 1200)") and "earlier milestone" not in remedy


def test_a_run_that_copies_its_images_is_not_to_be_trained_longer(tmp_path):
    found = findings(tmp_path, milestone=lambda step: {"copies": 0.4, "recognised": 0.3, "speckle": 0.5})
    assert set(found) == {"users not distinguishable", "blurred samples", "memorising"}
    assert not any("train longer" in finding.remedy for finding in found.values())


def test_an_earlier_milestone_is_advised_where_there_is_a_better_one(tmp_path):
    def sick(key, good, bad):
        return findings(tmp_path, milestone=lambda step: {key: good if step <= 40000 else bad})
    assert "an earlier milestone, such as 20" in sick("diversity", 0.9, 0.3)["collapsing"].remedy
    assert "an earlier milestone, such as 20" in sick("copies", 0.0, 0.4)["memorising"].remedy
    assert "earlier milestone" not in sick("copies", 0.3, 0.4)["memorising"].remedy


def test_figures_of_the_diagnosis_say_of_which_milestones_they_are(tmp_path, capsys):
    sick = dict(milestone=lambda step: {"diversity": 0.3 if step < TOTAL else 0.45})
    found = findings(tmp_path, **sick)["collapsing"].seen
    assert "0.30 times" in found and found.endswith("(median of the last 3 milestones)")
    monitor_training.main(Config(results_folder=tmp_path))
    assert "diversity 0.45" in capsys.readouterr().out      # in the line of milestone 75, the last one
    short = dict(steps=2000, train_num_steps=2000, milestone=lambda step: {"diversity": 0.3})
    assert findings(tmp_path, **short)["collapsing"].seen.endswith("(one milestone)")


def test_texture_stands_beside_that_of_the_training_images_before_the_vae_and_after_it(tmp_path, capsys):
    monitor_training.main(Config(results_folder=write_run(tmp_path)))
    printed = capsys.readouterr().out
    assert "texture beside training images: speckle contrast 0.95 (1 = as theirs), spectra off by 0.5 dB" in printed
    assert "these after the VAE: speckle contrast 0.97" in printed


@pytest.mark.parametrize("objective", ["pred_v", "pred_noise", "pred_x0"])
@pytest.mark.parametrize("beta_schedule, weighted, floor, standardize",
                         [("cosine", True, 0.0, True), ("linear", False, 0.0, False), ("cosine", True, 1.0, True)])
def test_the_start_level_is_the_loss_of_a_network_that_outputs_zero(objective, beta_schedule, weighted, floor,
                                                                    standardize):
    constants = dict(timesteps=50, objective=objective, beta_schedule=beta_schedule, min_snr_loss_weight=weighted,
                     min_loss_weight=floor)
    unet = Unet(8, 2, dim_mults=(1,), channels=4)
    unet.forward = lambda x, *_, **__: torch.zeros_like(x)
    diffusion = GaussianDiffusion(unet, image_size=4, **constants)
    generator = torch.Generator().manual_seed(0)
    std, t = (1 if standardize else 0.18), torch.arange(50).repeat(200)
    x_start, noise = (torch.randn((10000, 4, 4, 4), generator=generator) for _ in range(2))
    with torch.inference_mode():
        loss = diffusion(std * x_start, classes=torch.zeros_like(t), t=t, noise=noise, drop_mask=t < 0)
    config = to_plain(dataclasses.replace(Config(), standardize_latents=standardize, **constants))
    assert monitoring.zero_output_loss(config) == pytest.approx(loss.item(), rel=0.02)


# ------------------------------------------------------------------------------------------------------ reading

def write_lines(path: Path, *lines: dict | str) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_milestones_of_earlier_versions_are_read_without_the_figures_they_lack(tmp_path):
    write_run(tmp_path, steps=6000)
    path = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for key in ("recognised", "diversity", "copies"):
            line.pop(key, None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics, _, text = monitoring.read_run(tmp_path)
    assert metrics.broken_lines == 0 and len(metrics.milestones["class_gain"]) == 3
    assert "recognised" not in text and names(tmp_path) == []


def test_a_torn_last_line_is_ignored_and_other_broken_lines_are_counted(tmp_path):
    torn = json.dumps(training_line(150, 0.2))[:40]
    whole = (training_line(50, 0.3), training_line(100, math.nan))
    metrics = read_metrics(write_lines(tmp_path / "metrics.jsonl", *whole, torn))
    assert metrics.step == 100 and metrics.broken_lines == 0 and math.isnan(metrics.training["loss"][1])
    after_the_kill = read_metrics(write_lines(tmp_path / "metrics.jsonl", *whole, torn, training_line(150, 0.2),
                                              "[1]\n", '{"step": 170}\n', training_line(200, 0.2)))
    assert after_the_kill.training["step"].tolist() == [50, 100, 200] and after_the_kill.broken_lines == 3


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path):
    first = [training_line(step, 1.0) for step in range(100, 5301, 100)]
    first[20:20], first[41:41] = [milestone_line(2000, speckle=0.1)], [milestone_line(4000, speckle=0.2)]
    again = [training_line(step, 2.0) for step in range(4100, 6001, 100)] + [milestone_line(6000, speckle=0.3)]
    metrics = read_metrics(write_lines(tmp_path / "metrics.jsonl", *first, *again))
    assert metrics.training["step"].tolist() == list(range(100, 6001, 100))
    assert metrics.training["loss"].tolist() == [1.0] * 40 + [2.0] * 20
    assert metrics.milestones["speckle"].tolist() == [0.1, 0.2, 0.3]


def test_a_resume_before_a_milestone_forgets_it(tmp_path):
    lines = [training_line(2000, 1.0), milestone_line(2000), training_line(4000, 1.0), milestone_line(4000)]
    metrics = read_metrics(write_lines(tmp_path / "metrics.jsonl", *lines, training_line(2050, 1.0)))
    assert metrics.training["step"].tolist() == [2000, 2050] and metrics.milestones["step"].tolist() == [2000]


def test_smoothing_keeps_a_constant_and_skips_what_is_not_finite():
    values = np.full(200, 0.3)
    values[[3, 50, 199]] = math.nan, math.inf, math.nan
    np.testing.assert_allclose(smooth(values), 0.3)


# ------------------------------------------------------------------------------------------------------- script

def test_it_prints_where_training_stands_and_draws_it(tmp_path, capsys):
    folder = write_run(tmp_path, steps=60000)
    monitor_training.main(Config(results_folder=folder))
    printed = capsys.readouterr().out
    # 90000 steps are left at 0.16 s
    for part in ("step 60000 of 150000 (40.0%)", "milestone 30 of 75", "100 images/s", "2 h 40 min of training",
                 "4 h 00 min left", "all is well\n", "healthy: 1 at the start"):
        assert part in printed
    with Image.open(folder / "training.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == pytest.approx(1440, rel=0.05) and pixels.shape[0] == pytest.approx(1080, rel=0.05)
    assert pixels.std() > 10
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "metrics.jsonl", "training.png"]


def test_findings_are_printed_with_their_remedy(tmp_path, capsys):
    monitor_training.main(Config(results_folder=write_run(tmp_path, **ILLNESSES["NaN"])))
    printed = capsys.readouterr().out
    assert "NAN\n  seen     1200 of 3000 lines" in printed and "step 90050" in printed and "all is well" not in printed
    assert "remedy   stop, and resume" in printed


@pytest.mark.filterwarnings("error")
def test_skipped_steps_are_told(tmp_path, capsys):
    monitor_training.main(Config(results_folder=write_run(tmp_path, line=lambda step: {"skipped_steps": 3})))
    assert "3 steps skipped" in capsys.readouterr().out
    monitor_training.main(Config(results_folder=write_run(tmp_path)))       # of an earlier version, which told nothing
    assert "steps skipped" not in capsys.readouterr().out


@pytest.mark.parametrize("lines", [[], [training_line(50, math.nan, grad_norm=math.nan)],
                                   [training_line(50, 0.3), milestone_line(50, copies=math.nan)]],
                         ids=["none", "only NaN", "one"])
def test_the_first_lines_are_enough(tmp_path, capsys, lines):
    write_lines(write_run(tmp_path) / "metrics.jsonl", *lines)
    monitor_training.main(Config(results_folder=tmp_path))
    assert (tmp_path / "training.png").exists() == bool(lines)
    assert f"step {50 if lines else 0} of 150000" in capsys.readouterr().out


def test_watch_follows_a_growing_file_to_its_end(tmp_path, capsys):
    folder = write_run(tmp_path, steps=500, train_num_steps=1000)

    def train():
        for step in range(550, 1001, 50):
            line = json.dumps(training_line(step, standardized(step))) + "\n"
            line += json.dumps(milestone_line(step)) + "\n" if step == 1000 else ""
            with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
                for half in (line[:30], line[30:]):         # so that it is seen torn, too
                    file.write(half)
                    file.flush()
                    time.sleep(0.1)

    trainer = threading.Thread(target=train)
    trainer.start()
    monitor_training.main(Config(results_folder=folder), watch=0.1)
    trainer.join()
    printed = capsys.readouterr().out
    shown = [int(line.split()[1]) for line in printed.splitlines() if line.startswith("step ")]
    assert shown == sorted(shown) and shown[0] < 1000 and shown[-1] == 1000 and shown.count(1000) == 1
    assert "cannot be read" not in printed and "complete" in printed


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, monitor_training.__file__, *map(str, arguments)]


def test_a_run_that_was_shortened_behind_its_step_is_complete(tmp_path):
    folder = write_run(tmp_path / "run", steps=4000, train_num_steps=3000)
    assert "training, complete" in monitoring.read_run(folder)[2]


def test_ctrl_c_ends_watching_quietly(tmp_path):
    folder = write_run(tmp_path, steps=500)
    process = subprocess.Popen(      # a shell's background job, as this may be, has Ctrl-C switched off
        command("--results_folder", folder, "--watch", 60), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    while process.stdout.readline().strip() != "":      # up to the blank line before the diagnosis
        pass
    assert "all is well" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 0 and complaint == ""


def test_without_a_run_it_ends_with_one_line_and_status_2(tmp_path):
    done = subprocess.run(command("--results-folder", tmp_path / "absent"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "train_latent_cfg.py" in done.stderr and not (tmp_path / "absent").exists()


def test_bad_input_writes_nothing(tmp_path):
    folder = write_run(tmp_path / "run", steps=500)
    with pytest.raises(InputError, match="watch"):
        monitor_training.main(Config(results_folder=folder), watch=0)
    for text in ("{", "{}", "[]", '{"objective": "pred_y"}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(InputError, match="config.json"):
            monitor_training.main(Config(results_folder=folder))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="config.json does not exist"):
        monitor_training.main(Config(results_folder=folder))
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]
