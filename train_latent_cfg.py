"""Step 3: train the latent diffusion model. Config, at the top, holds the constants of every script."""
import dataclasses
import math
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

import torch
from accelerate import PartialState

from assembly import (build_diffusion, build_trainer, clipping_is_justified, guidance_of, legend_of, open_cache,
                      open_judge, open_split, open_vae)
from denoising_diffusion_pytorch.checkpoint import (ONLY_TO_RESUME, list_milestones, load_checkpoint, milestone_path,
                                                    read_off_tensors)
from denoising_diffusion_pytorch.trainer import join_processes
from groundwork.command_line import run
from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError, differences
from groundwork.images import load_images
from groundwork.lock import sole_writer
from groundwork.stopping import StopRequest, deadline, stopping_on_signals
from microdoppler.latents import LatentStatistics
from microdoppler.milestone import MilestoneWatcher
from microdoppler.selection import FARTHEST_DOPPLER_SHIFT
from recording import ResultsRecorder, set_aside_later
from tracking import choose_trackers


@dataclass(frozen=True)
class Config:
    """The constants. Edit them here, or override any on the command line of a script that reads them."""
    preset: str = "full"  # full (one GPU), cpu-hours (128 px, no GPU), cpu-minutes (64 px, the demo)
    # --- paths
    vae_path: Path = Path("/kaggle/input/kl-vae-best-pt/kl_vae_best.pt")  # weights of the VAE
    data_path: Path = Path("/kaggle/input/organized-gait-dataset/Normal_line")  # holds ID_1 … ID_<num_users>
    results_folder: Path = Path("./results")  # checkpoints, samples, metrics, reports
    latents_cache_folder: Path = Path("./latents_cache")  # the split and the encoded training images
    # --- data
    num_users: int = 31  # users 1 … num_users, labels 0 … num_users - 1
    class_folders: bool = False  # the users are all folders of data_path, whatever their names; False: ID_<number>
    class_names: Path | None = None  # JSON {folder: name}: what figures and tables call the users
    images_per_user_train: int = 50  # the rest, less the guard, is for testing
    window_seconds: float = 0.0  # duration of an image, for the axes of pictures; 0: unknown, or the simulator's
    velocity_range_mps: tuple[float, float] = (0.0, 0.0)  # of an image's lowest and highest row, likewise
    split_strategy: str = "contiguous"  # contiguous: a run of windows in time; random: leaks, as windows overlap
    split_fold: int = 0  # contiguous: which third of each recording is trained on: 0, 1 or 2
    split_guard: int = 4  # windows on each side of the training run that belong to neither set
    cuts_per_hop: int = 4  # training windows per hop, cut from neighbours stitched together; 1: only those recorded
    doppler_shift: float = 0.03  # share of the height by which those are moved up or down at most, each at random
    image_size: int = 256  # pixels, height = width
    latent_size: int = 32  # height = width of the VAE's latents at that image size
    latent_channels: int = 4  # channels of the VAE's latents
    standardize_latents: bool = True  # per channel to mean 0, std 1: they have std 0.18, and noise has 1
    seed: int = 42  # of everything random
    # --- model
    dim: int = 48  # width of the first level
    dim_mults: tuple[int, ...] = (1, 2, 4)  # width of each level, in multiples of dim
    attn_dim_head: int = 32  # width of a head of the middle attention
    attn_heads: int = 4  # heads of the middle attention
    cond_drop_prob: float = 0.5  # share of training images whose user is hidden, for guidance
    # --- diffusion
    timesteps: int = 1000  # noise levels
    objective: str = "pred_v"  # what the network predicts: pred_v, pred_noise or pred_x0
    beta_schedule: str = "cosine"  # noise schedule: cosine or linear
    min_snr_loss_weight: bool = True  # cap the weight of the easy, nearly clean timesteps
    min_snr_gamma: float = 5.0  # the cap, a signal-to-noise ratio
    min_loss_weight: float = 1.0  # of the noisiest timesteps, which decide whom a sample shows; pred_v: 1 = all alike
    offset_noise_strength: float = 0.0  # noise shared by all pixels of a channel; 0.1 helps very dark or bright data
    auto_normalize: bool = False  # map [0, 1] to [-1, 1]; wrong for latents outside [0, 1], see test_vae_range.py
    # --- training
    train_batch_size: int = 8  # times the next: images of a step, all at once as far as memory allows
    gradient_accumulate_every: int = 2  # so 8 x 2 and 16 x 1 are the same
    train_lr: float = 1e-4  # Adam's learning rate
    adam_betas: tuple[float, float] = (0.9, 0.99)  # Adam's averages of the gradient and its square
    max_grad_norm: float = 1.0  # longer gradients are cut to this norm
    train_num_steps: int = 150000  # optimisation steps
    ema_decay: float = 0.9995  # of the averaged weights, which are the ones that draw samples
    ema_update_every: int = 10  # steps between two updates of the average
    amp: bool = True  # mixed precision: bf16 where native, else fp16 on CUDA, float32 on CPU
    device: str = "auto"  # auto, cpu, cuda or cuda:<n>
    # --- watching
    max_train_hours: float = 0.0  # then save and stop; 0: never, and on Kaggle ten minutes before the session's end
    save_and_sample_every: int = 2000  # steps between two milestones: model-<m>.pt and sample-<m>.png
    keep_last: int = 3  # newest milestones that can be resumed; older ones keep what draws images, a quarter as large
    keep_every: int = 1  # of those older ones, every so many-th milestone is kept
    num_samples: int = 16  # images in sample-<m>.png, rows of users
    log_every: int = 50  # steps between two lines of metrics.jsonl
    log_with: str = "auto"  # auto: TensorBoard where it is installed; none, all, or a tracker's name, as wandb
    # --- sampling
    sampler: str = "dpmpp_2m"  # dpmpp_2m, ddim, or ddpm (all timesteps)
    sampling_timesteps: int = 20  # network evaluations per image with dpmpp_2m and ddim
    ddim_sampling_eta: float = 0.0  # ddim: 0 deterministic, 1 as noisy as ddpm and poor at few steps
    noise_level: float = 1.0  # generate.py: 1 from noise alone; less: from training images noised so far (SDEdit)
    cond_scale: float = 1.5  # guidance: 1 none, higher = more typical of the user and less diverse
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # of the timesteps, as shares; outside there is no guidance
    rescaled_phi: float = 0.7  # how far guidance's gain in contrast is taken back, 0 … 1
    remove_parallel_component: bool = True  # drop the part of guidance that only raises contrast
    use_cfg_plus_plus: bool = False  # CFG++; cond_scale then lies in (0, 1]
    vae_batch_size: int = 16  # images that go through the VAE at once
    # --- classifier
    classifier_image_size: int = 128  # pixels, height = width
    classifier_steps: int = 1500  # optimisation steps, the same in every arm
    classifier_batch_size: int = 32  # images per step
    classifier_lr: float = 1e-3  # peak learning rate
    classifier_synthetic_shares: tuple[float, float] = (1.0, 0.0)  # in the first and the last batch, a line between
    classifier_seeds: int = 3  # repeats per arm and fold


PRESETS = {
    "full": Config(),
    "cpu-hours": replace(
        Config(), preset="cpu-hours", image_size=128, latent_size=16, cond_drop_prob=0.15, train_batch_size=16,
        gradient_accumulate_every=1, train_lr=5e-4, train_num_steps=2000, ema_decay=0.999, ema_update_every=1,
        save_and_sample_every=500,
        classifier_image_size=96, classifier_steps=1000, classifier_batch_size=16, classifier_lr=2e-3),
    "cpu-minutes": replace(
        Config(), preset="cpu-minutes", image_size=64, latent_size=16, num_users=8, dim=32, cond_drop_prob=0.15,
        train_batch_size=32, gradient_accumulate_every=1, train_lr=1e-3, train_num_steps=1200, ema_decay=0.995,
        ema_update_every=1, save_and_sample_every=400, log_every=20, classifier_image_size=64, classifier_steps=150,
        classifier_batch_size=16, classifier_lr=3e-3),
}


def _within(low: float, high: float, *names: str) -> tuple[str, Callable, tuple[str, ...]]:
    return f"{low:,} … {high:,}".replace(",", " "), lambda value: low <= value <= high, names


LIMITS = (      # (what a constant must be, the test, the constants); the upper limits are far beyond what makes sense
    _within(1, 64, "gradient_accumulate_every", "cuts_per_hop"),
    _within(1, 4096, "image_size", "latent_size", "latent_channels", "attn_dim_head", "attn_heads", "num_samples",
            "train_batch_size", "vae_batch_size", "classifier_seeds"),
    _within(1, 100_000, "num_users", "images_per_user_train", "timesteps", "sampling_timesteps"),
    _within(1, 1_000_000_000, "train_num_steps", "ema_update_every", "save_and_sample_every", "log_every", "keep_last",
            "keep_every", "classifier_steps"),
    _within(0, 100_000, "split_guard", "max_train_hours", "window_seconds"),
    _within(0, 2_000_000_000, "seed"),
    _within(0, 1000, "offset_noise_strength", "cond_scale", "min_loss_weight"),
    _within(0, 1, "cond_drop_prob", "ema_decay", "ddim_sampling_eta", "rescaled_phi"),
    (f"in 0 … {FARTHEST_DOPPLER_SHIFT:g}, as far as copies are looked for",
     lambda value: 0 <= value <= FARTHEST_DOPPLER_SHIFT, ("doppler_shift",)),
    ("more than 0, 1 at most", lambda value: 0 < value <= 1, ("noise_level", "train_lr", "classifier_lr")),
    ("more than 0, 1 000 000 at most", lambda value: 0 < value <= 1e6, ("min_snr_gamma", "max_grad_norm")),
    ("two shares in 0 … 1", lambda value: len(value) == 2 and all(0 <= share <= 1 for share in value),
     ("classifier_synthetic_shares",)),
    ("two rising shares in 0 … 1", lambda value: len(value) == 2 and 0 <= value[0] <= value[1] <= 1,
     ("guidance_interval",)),
    ("two rising speeds in -10 000 … 10 000, or two zeros",
     lambda value: value == (0, 0) or len(value) == 2 and -1e4 <= value[0] < value[1] <= 1e4, ("velocity_range_mps",)),
    ("two numbers from 0 to below 1", lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value),
     ("adam_betas",)),
    ("even, for sines and cosines of the time, and in 4 … 4 096",
     lambda value: 4 <= value <= 4096 and value % 2 == 0, ("dim",)),
    ("one to eight numbers in 1 … 64", lambda value: 1 <= len(value) <= 8 and 1 <= min(value) <= max(value) <= 64,
     ("dim_mults",)),
    ("at least 2, for batch normalisation, and 4 096 at most", lambda value: 2 <= value <= 4096,
     ("classifier_batch_size",)),
    ("at least 32, for ResNet18 halves it five times, and 4 096 at most", lambda value: 32 <= value <= 4096,
     ("classifier_image_size",)),
)


def check_constants(config: Config) -> None:
    """Raises InputError with the first constant that is outside its limits."""
    for expected, holds, names in LIMITS:
        for name in names:
            value = getattr(config, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not (all(map(math.isfinite, numbers)) and holds(value)):
                raise InputError(f"{name} is {value}; expected {expected}")
    if config.latent_size % (factor := 2 ** (len(config.dim_mults) - 1)):
        raise InputError(f"latent_size is {config.latent_size}; expected a multiple of {factor}, as the "
                         f"{len(config.dim_mults)} dim_mults halve it {len(config.dim_mults) - 1} times")
    if (config.window_seconds > 0) != (config.velocity_range_mps != (0.0, 0.0)):
        raise InputError(f"window_seconds is {config.window_seconds}, velocity_range_mps {config.velocity_range_mps}; "
                         "expected both or neither")
    if config.use_cfg_plus_plus and not 0 < config.cond_scale <= 1:
        raise InputError(f"cond_scale is {config.cond_scale} with use_cfg_plus_plus; expected (0, 1], try 0.6")


# A resumed run keeps these; the others (length, learning rate, paths, sampling, …) may change.
FIXED_BY_CHECKPOINT = (
    "num_users", "class_folders", "images_per_user_train", "split_strategy", "split_fold", "split_guard",
    "cuts_per_hop", "doppler_shift", "image_size", "latent_size", "latent_channels", "standardize_latents", "seed",
    "dim", "dim_mults", "attn_dim_head", "attn_heads", "timesteps", "objective", "beta_schedule", "auto_normalize",
    "min_loss_weight", "save_and_sample_every")


def config_to_plain(config: Config) -> dict:
    """Config as JSON's types, for checkpoints and config.json."""
    return {key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(config).items()}


def config_of(checkpoint: dict) -> Config:
    """The Config a checkpoint was trained with; what an older one does not say is read off its tensors."""
    # as in the runs before there was a choice
    defaults = replace(Config(), cuts_per_hop=1, doppler_shift=0.0, min_loss_weight=0.0)
    if not checkpoint.get("config"):
        known = read_off_tensors(checkpoint)
        return replace(defaults, num_users=known.pop("num_classes"), latent_channels=known.pop("channels"),
                       standardize_latents=False, **known)
    names = {field.name for field in dataclasses.fields(Config)}
    try:
        return replace(defaults, **{name: _like(getattr(defaults, name), value)
                                    for name, value in checkpoint["config"].items() if name in names})
    except (TypeError, AttributeError) as error:
        raise InputError(f"the checkpoint's config is none of ours ({error}); expected constants of Config") from None


def _like(default: object, value: Any) -> Any:
    """A plain value as the type of a constant's default; raises TypeError when it is of another kind."""
    if default is None and value is None:
        return None
    if isinstance(default, Path) or default is None:        # the one constant that may be None is a path
        return Path(value)
    if isinstance(default, tuple):
        return tuple(_like(default[0], part) for part in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise TypeError(f"{value!r} is no {type(default).__name__}")
    return value


def resume_point(config: Config, resume: str | None) -> dict | None:
    """The checkpoint to go on from, or None for a fresh start. Raises InputError rather than overwrite a run."""
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
        raise InputError(f"{path} was thinned out and only draws images now; the newest keep_last = {config.keep_last} "
                         f"can be resumed, up to {milestones[-1]}")
    if not {"opt", "scaler", "seconds", "latent_statistics", "vae_fingerprint", "split"} <= checkpoint.keys():
        raise InputError(f"{path} is of the older format, which can generate but not be resumed")
    was, now = config_to_plain(config_of(checkpoint)), config_to_plain(config)
    changed = differences(was, {name: now[name] for name in FIXED_BY_CHECKPOINT})
    if changed:
        raise InputError(f"{path} was trained with {changed}; go back to those constants to resume")
    return checkpoint


def main(config: Config, *, resume: str | None = None) -> bool:
    """Train the latent diffusion model, step 3 of 5. Ctrl-C, SIGTERM and max_train_hours save before they stop.

    Returns whether training is complete.

    Args:
        resume: go on from a checkpoint in results_folder: latest, or a milestone's number
    """
    stop = StopRequest(deadline(config.max_train_hours))
    check_constants(config)
    device = choose_device(config.device)
    processes = join_processes(device)
    count = processes.num_processes
    print(describe_work(device, amp=config.amp, uses_graph=True, processes=count,
                        at_once=config.train_batch_size * config.gradient_accumulate_every // count))
    with sole_writer(config.results_folder) if processes.is_main_process else nullcontext():
        return train(config, resume, device, processes, stop)


def train(config: Config, resume: str | None, device: torch.device, processes: PartialState,
          stop: StopRequest) -> bool:
    trackers = choose_trackers(config.log_with)
    checkpoint = resume_point(config, resume)
    vae = open_vae(config, device)
    vae_fingerprint = vae.fingerprint()
    if checkpoint is not None and checkpoint["vae_fingerprint"] != vae_fingerprint:
        raise InputError(f"the run in {config.results_folder} was trained on the latents of another VAE than "
                         f"{config.vae_path}; go back to that one to resume")
    torch.manual_seed(config.seed)      # the network's first weights
    diffusion = build_diffusion(config)
    with processes.main_process_first():        # which writes what the others then read
        split = open_split(config)
        if checkpoint is not None and checkpoint["split"] != split.identity():
            raise InputError(f"the run in {config.results_folder} was trained on other images than this split's: "
                             f"{differences(checkpoint['split'], split.identity())}; go back to its data_split.json")
        legend = legend_of(config, split)
        cache = open_cache(config, split, vae, device)
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
        print(f"resumed at step {trainer.step}")

    recorder = None
    if processes.is_main_process:
        watcher = MilestoneWatcher(trainer.ema.ema_model, vae, cache, scaling,
                                   open_judge(config, split, device, vae.channels),
                                   num_samples=config.num_samples, guidance=guidance_of(config), seed=config.seed)
        real = {user: load_images(config.data_path, split.train_images[user][:1], config.image_size,
                                  channels=vae.channels)[0]
                for user in watcher.users}
        recorder = ResultsRecorder(config, trainer, watcher, real, legend, {
            "config": config_to_plain(config), "latent_statistics": dataclasses.asdict(statistics),
            "vae_fingerprint": vae_fingerprint, "split": split.identity()})
        set_aside_later(config.results_folder, trainer.step, config.save_and_sample_every)
        recorder.finish_interrupted_milestone()
    with stopping_on_signals(stop), closing(recorder) if recorder else nullcontext():
        reason = trainer.train(config.train_num_steps, log_every=config.log_every,
                               milestone_every=config.save_and_sample_every, recorder=recorder, stop=stop)
    last = list_milestones(config.results_folder)[-1]
    if reason:
        print(f"{reason}: step {trainer.step} of {config.train_num_steps} is saved in {config.results_folder}/model-"
              f"{last}.pt\nto go on: the same command with --resume latest")
        return False
    print(f"done: {config.results_folder}/model-{last}.pt and sample-{last}.png\n"
          f"next: python generate.py --checkpoint {config.results_folder}/model-{last}.pt --all_users "
          f"--samples_per_user 50 --output_dir synthetic_data/checkpoint_{last}")
    return True


if __name__ == "__main__":
    run(main, PRESETS, Config.preset)
