"""Step 3: train the diffusion model that a Config describes, or resume its training."""
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from denoising_diffusion_pytorch.checkpoint import ONLY_TO_RESUME, list_milestones, load_checkpoint, milestone_path
from denoising_diffusion_pytorch.trainer import Trainer
from groundwork.command_line import command, quoted
from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError, differences
from groundwork.images import load_images
from groundwork.limits import checks_arguments, to_plain
from groundwork.lock import sole_writer
from groundwork.processes import init_distributed
from groundwork.stopping import StopRequest, deadline, stopping_on_signals
from microdoppler.data.latents import LatentStatistics
from microdoppler.pipeline.assembly import (build_diffusion, build_trainer, clipping_is_justified, guidance_of,
                                            legend_of, load_windows, open_cache, open_data, open_sample_evaluator,
                                            open_vae)
from microdoppler.pipeline.constants import FIXED_BY_CHECKPOINT, check_new_config, config_of
from microdoppler.pipeline.control import open_copy_detector
from microdoppler.pipeline.recording import ResultsRecorder, move_abandoned_milestones
from microdoppler.pipeline.starting import take_weights
from microdoppler.pipeline.synthetic_folder import SAMPLES_OF_ALL
from microdoppler.pipeline.tracking import choose_trackers
from microdoppler.study.evaluation_classifier import load_validation
from microdoppler.watch.milestone import MilestoneWatcher, shown_labels
from train_latent_cfg import Config


@checks_arguments
def train(config: Config, resume: str | None = None, start_from: str | Path | None = None) -> bool:
    """Train the latent diffusion model; returns True when training is complete, False when it was stopped and saved.

    resume: continue from a checkpoint in results_folder: "latest", or the number of a milestone. start_from: begin with
    the weights of another training: model-<m>.pt, model.safetensors or a results folder. Ctrl-C, SIGTERM and
    max_train_hours stop the training after a checkpoint is saved. Raises InputError when constants, files and
    checkpoint contradict each other.
    """
    if resume is not None and start_from is not None:
        raise InputError("--resume goes on with a training and --start_from begins one; give one of them")
    stop = StopRequest(deadline(config.max_train_hours))
    check_new_config(config)
    device = choose_device(config.device)
    processes = init_distributed(device)
    count = processes.num_processes
    print(describe_work(device, amp=config.amp, processes=count,
                        micro_batch=config.train_batch_size * config.gradient_accumulate_every // count))
    with sole_writer(config.results_folder) if processes.is_main_process else nullcontext():
        trackers = choose_trackers(config.log_with)
        config, trainer, recorder = prepare(config, resume, device, processes, trackers, start_from)
        with stopping_on_signals(stop), closing(recorder) if recorder else nullcontext():
            reason = trainer.train(config.train_num_steps, log_every=config.log_every,
                                   milestone_every=config.save_and_sample_every, recorder=recorder, stop=stop)
        last = list_milestones(config.results_folder)[-1]
        if reason:
            print(f"{reason}: step {trainer.step} of {config.train_num_steps} is saved in {config.results_folder}/"
                  f"model-{last}.pt\nto go on: the same command with --resume latest"
                  + (" instead of --start_from" if start_from else ""))
        else:
            each = config.images_per_user_train
            choosing = quoted(["python", "-m", "microdoppler.choose", "--config", str(config.results_folder)])
            print(f"done: {config.results_folder}/model-{last}.pt and sample-{last}.png\n"
                  + (f"to choose milestone and sampling constants on validation images first: {choosing}\n"
                     if config.split_validation else "") +
                  "next: " + command("generate.py", "--checkpoint", milestone_path(config.results_folder, last),
                                     "--all_users", "--samples_per_user",
                                     each if isinstance(each, int) else SAMPLES_OF_ALL,
                                     "--output_dir", f"synthetic_data/checkpoint_{last}"))
    return not reason


def prepare(config: Config, resume: str | None, device: torch.device, processes: PartialState, trackers: list[str],
            start_from: str | Path | None) -> tuple[Config, Trainer, ResultsRecorder | None]:
    """The Config with the constants that were left open; the trainer, at the step of the checkpoint that `resume`
    names, else at step 0 with the weights of start_from or with random ones; and the recorder of its results, None in
    all processes but the main one. Raises InputError when VAE, split or latents are not those of the checkpoint."""
    config, vae = open_vae(config, device)
    fingerprint = vae.fingerprint()
    with processes.main_process_first():        # it makes the split, which the others then read
        config, data = open_data(config)
    split = data.split
    checkpoint = resume_point(config, resume)
    if checkpoint is not None and checkpoint["vae_fingerprint"] != fingerprint:
        raise InputError(f"the run in {config.results_folder} was trained on the latents of another VAE than "
                         f"{config.vae_path}; go back to that one to resume")
    if checkpoint is not None and checkpoint["split"] != split.identity():
        raise InputError(f"the run in {config.results_folder} was trained on other images than this split's: "
                         f"{differences(checkpoint['split'], split.identity())}; go back to its data_split.json")
    torch.manual_seed(config.seed)      # for the network's initial weights
    diffusion = build_diffusion(config)
    started_from = checkpoint.get("started_from") if checkpoint is not None else None
    if start_from is not None:
        started_from = take_weights(start_from, config, diffusion, fingerprint)
    legend = legend_of(config, split)
    cache = open_cache(config, data, vae, device)
    statistics = cache.statistics
    if checkpoint is not None:
        statistics = LatentStatistics.of(checkpoint["latent_statistics"], config.results_folder)
    print(f"latents: {len(cache)}, min {statistics.min:.3f}, max {statistics.max:.3f}, "
          f"std per channel {', '.join(f'{std:.3f}' for std in statistics.std)}")
    diffusion.clip_x_start = clipping_is_justified(config, statistics)
    scaling = statistics.scaling(config.standardize_latents)
    trainer = build_trainer(config, diffusion, cache, scaling, device, trackers)
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint)
        print(f"resumed at step {trainer.step}" + (
            f": train_num_steps = {config.train_num_steps} is reached; raise it to train longer"
            if trainer.step >= config.train_num_steps else ""))
    if not processes.is_main_process:
        return config, trainer, None
    labels = shown_labels(cache.labels, config.num_samples).tolist()
    evaluator = replace(open_sample_evaluator(config, data, device, vae.channels),
                        copy_detector=open_copy_detector(config, data, vae, labels, device))
    watcher = MilestoneWatcher(trainer.ema_model, vae, cache, scaling,
                               partial(load_windows, config, data, vae.channels),
                               load_validation(data.path, split, config.image_size, vae.channels, labels), evaluator,
                               num_samples=config.num_samples, guidance=guidance_of(config), seed=config.seed)
    shown = [split.users[label] for label in watcher.labels]
    real = {user: load_images(data.path, split.train_images[user][:1], config.image_size, channels=vae.channels,
                              preparation=split.preparation)[0] for user in shown}
    recorder = ResultsRecorder(config, trainer, watcher, real, legend, {
        "config": to_plain(config), "latents": cache.fingerprint, "latent_statistics": asdict(statistics),
        "vae_fingerprint": fingerprint, "split": split.identity(), "started_from": started_from})
    move_abandoned_milestones(config.results_folder, trainer.step, config.save_and_sample_every)
    recorder.finish_interrupted_milestone()
    return config, trainer, recorder


def resume_point(config: Config, resume: str | None) -> dict | None:
    """The content of the checkpoint to resume, or None to start from scratch.

    Raises InputError when a start from scratch would overwrite a run, and when the checkpoint cannot be resumed or was
    trained with other constants (FIXED_BY_CHECKPOINT).
    """
    milestones = list_milestones(config.results_folder)
    if resume is None:
        if milestones:
            raise InputError(f"{config.results_folder} already holds milestones up to {milestones[-1]}; go on with "
                             "--resume latest, or choose another results_folder")
        return None
    if resume == "latest" and not milestones:
        raise InputError(f"--resume latest, but {config.results_folder} holds no checkpoint; start without --resume")
    if not (resume == "latest" or resume.isdecimal()):
        raise InputError(f"--resume {resume}; expected latest or a milestone's number")
    path = milestone_path(config.results_folder, milestones[-1] if resume == "latest" else int(resume))
    checkpoint = load_checkpoint(path)
    if "format" in checkpoint and not set(ONLY_TO_RESUME) <= checkpoint.keys():
        raise InputError(f"{path} was thinned out and can only generate images now; the newest keep_last = "
                         f"{config.keep_last} can be resumed, up to {milestones[-1]}")
    if not {"opt", "scaler", "seconds", "latent_statistics", "vae_fingerprint", "split"} <= checkpoint.keys():
        raise InputError(f"{path} is of the older format, which can generate but not be resumed")
    was, now = to_plain(config_of(checkpoint)), to_plain(config)
    changed = differences(was, {name: now[name] for name in FIXED_BY_CHECKPOINT})
    if changed:
        raise InputError(f"{path} was trained with {changed}; go back to those constants to resume")
    return checkpoint
