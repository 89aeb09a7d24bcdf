"""Step 3 of 5: train the latent diffusion model.

Config holds the constants of all scripts. Edit them here, or override them on a script's command line. The type of a
constant sets its limits (groundwork/limits.py), and its comment says what it does.
"""
from dataclasses import dataclass, replace
from pathlib import Path

from groundwork.command_line import run
from groundwork.limits import (Augmentations, BatchSize, Betas, Budget, ClassifierSize, Count, CountOrZero, Duration,
                               EvenSize, Few, FourNumbers, Interval, Mixing, Multiples, NumSteps, Positive,
                               PositiveShare, Seed, Share, Size, SpeedRange, TrainSize, TwoNumbers, TwoShares,
                               UserNumbers, ValidationShare, Weight, convert_fields)


@dataclass(frozen=True)
class Config:
    """The constants. Edit them here, or override any of them on the command line of a script that reads them."""
    preset: str = "full"  # full (256 px, one GPU), cpu-hours (128 px, no GPU) or cpu-minutes (64 px, the demo)
    # --- paths
    vae_path: Path = Path("/kaggle/input/kl-vae-best-pt/kl_vae_best.pt")  # weights of the VAE
    data_path: Path = Path("/kaggle/input/organized-gait-dataset/Normal_line")  # holds the users' folders ID_1, ID_2, …
    results_folder: Path = Path("./results")  # checkpoints, samples, metrics, reports
    latents_cache_folder: Path = Path("./latents_cache")  # the split and the encoded training images
    # --- data; None and 0: as data_split.json says, or what the data suggest if there is none yet
    num_users: CountOrZero = 0  # number of users (classes): the first of them, in rising order; 0: all
    class_folders: bool = False  # True: all folders in data_path are users; False: ID_<n>, or all if there are none
    class_names: Path | None = None  # JSON file {folder: name}: names of the users in figures and tables
    recording_pattern: str | None = None  # regular expression that finds recording and number in an image's name
    test_data: Path | None = None  # folder of a given test set; then all images in data_path may be trained on
    images_per_user_train: TrainSize | None = None  # a number, a share below 1, or all_but_test; None: a third
    split_strategy: str | None = None  # contiguous (None): recordings stay whole; random: leaks, windows overlap
    split_fold: int | None = None  # contiguous: which third of the recordings is trained on: 0 (None), 1 or 2
    split_guard: CountOrZero | None = None  # windows left out on each side of the training run; None: as many as needed
    split_validation: ValidationShare | None = None  # share of training images kept to choose constants; None: 0.2
    fit: str | None = None  # images that are not square: stretch (None), crop or pad
    crop: FourNumbers | None = None  # left top right bottom of the part of the image files to keep: pixels, or shares
    levels: TwoNumbers | None = None  # values of the image files that become black and white; None: their whole range
    leave_out_users: UserNumbers | None = None  # users that nothing is trained on: classify.py tests them as unseen
    window_seconds: Duration = 0.0  # duration of an image file; 0: from axes.json, else pictures have no axes
    velocity_range_mps: SpeedRange = (0.0, 0.0)  # m/s at its lowest and highest row; set it with window_seconds
    cuts_per_hop: Few = 4  # training windows per hop, cut from two stitched neighbours; 1: only the recorded windows
    doppler_shift: Share = 0.03  # training windows are moved up or down at random, by at most this share of the height
    image_size: CountOrZero = 0  # pixels, height = width; 0: the size that the VAE was trained for
    latent_size: CountOrZero = 0  # height = width of the VAE's latents at that image size; 0: as the VAE makes them
    latent_channels: CountOrZero = 0  # channels of the VAE's latents; 0: as the VAE makes them
    standardize_latents: bool = True  # scale each channel to mean 0 and std 1, as noise has; usual latents: std 0.18
    seed: Seed = 42  # random seed of everything
    # --- model
    dim: EvenSize = 48  # channels of the first level
    dim_mults: Multiples = (1, 2, 4)  # channels of each level, in multiples of dim
    attn_dim_head: Size = 32  # channels of each head of the attention in the middle
    attn_heads: Size = 4  # heads of the attention in the middle
    cond_drop_prob: Share = 0.5  # share of training images whose user is hidden, which guidance needs
    # --- diffusion
    timesteps: Count = 1000  # number of noise levels
    objective: str = "pred_v"  # what the network predicts: pred_v, pred_noise or pred_x0
    beta_schedule: str = "cosine"  # noise schedule: cosine or linear
    min_snr_loss_weight: bool = True  # limit the loss weights of the easy, nearly noise-free timesteps (min-SNR)
    min_snr_gamma: Positive = 5.0  # this limit, a signal-to-noise ratio
    min_loss_weight: Weight = 1.0  # lowest loss weight of any timestep; pred_v: 1 gives every timestep the same weight
    offset_noise_strength: Weight = 0.0  # noise shared by all pixels of a channel; 0.1 helps very dark or bright data
    auto_normalize: bool = False  # map [0, 1] to [-1, 1]; wrong for latents outside [0, 1], see test_vae_range.py
    # --- training
    train_batch_size: Size = 8  # times gradient_accumulate_every = images per step, all at once if memory allows
    gradient_accumulate_every: Few = 2  # only the product counts: 8 x 2 and 16 x 1 are the same
    train_lr: PositiveShare = 1e-4  # Adam's learning rate
    adam_betas: Betas = (0.9, 0.99)  # Adam's decay rates, for the averages of the gradient and of its square
    max_grad_norm: Positive = 1.0  # gradients with a larger norm are scaled down to this norm
    train_num_steps: NumSteps = 150000  # optimisation steps
    ema_decay: Share = 0.9995  # decay of the averaged weights (EMA), which generate all images
    ema_update_every: NumSteps = 10  # steps between two updates of the averaged weights
    amp: bool = True  # mixed precision: bfloat16 where the hardware has it, else float16 on CUDA and float32 on a CPU
    device: str = "auto"  # auto (CUDA if there is one), cpu, cuda, or cuda:0, cuda:1, …
    # --- watching
    max_train_hours: Duration = 0.0  # then save and stop; 0: no limit, but on Kaggle 10 minutes before the session ends
    save_and_sample_every: NumSteps = 2000  # steps per milestone; milestone 1 is model-1.pt and sample-1.png
    keep_last: NumSteps = 3  # newest checkpoints that can be resumed; older ones only generate, a quarter as large
    keep_every: NumSteps = 1  # of the older checkpoints, only every n-th is kept: 1 keeps all, 5 keeps 5, 10, 15, …
    num_samples: Size = 16  # samples that the figures of a milestone are computed from; they are of several users
    log_every: NumSteps = 50  # steps between two lines of metrics.jsonl
    log_with: str = "auto"  # auto: TensorBoard if it is installed; none; all; or the name of a tracker, as wandb
    # --- sampling
    sampler: str = "dpmpp_2m"  # dpmpp_2m, ddim, or ddpm (all timesteps)
    sampling_timesteps: Count = 20  # network evaluations per image with dpmpp_2m and ddim
    ddim_sampling_eta: Share = 0.0  # ddim: 0 deterministic, 1 as noisy as ddpm (poor with few steps)
    noise_level: PositiveShare = 1.0  # generate.py: 1 = from noise alone; below 1 = from noised training images, SDEdit
    cond_scale: Weight = 1.5  # guidance: 1 = none; higher = more typical of the user and less diverse
    guidance_interval: Interval = (0.0, 1.0)  # where there is guidance, in shares of the timesteps: 0 clean, 1 noise
    rescaled_phi: Share = 0.7  # how far the contrast that guidance adds is taken back: 0 = not at all, 1 = fully
    remove_parallel_component: bool = True  # drop the part of guidance that only raises contrast
    use_cfg_plus_plus: bool = False  # CFG++ guidance; cond_scale must then be in (0, 1]
    vae_batch_size: Size = 16  # images that go through the VAE at once
    # --- classifier
    classifier: str = "resnet18"  # one of torchvision's classification models, trained from random weights
    classifier_image_size: ClassifierSize = 256  # pixels, height = width: as the images have, else details are lost
    classifier_epochs: Count = 50  # how often the arm real only sees each image; 20 or fewer may reverse a verdict
    classifier_budget: Budget = "steps"  # steps: as many for every arm; epochs: each arm sees its own images that often
    classifier_mixing: Mixing = "shares"  # shares: see classifier_synthetic_shares; concat: shuffled as one set
    classifier_augmentations: Augmentations = ("classical", "MixUp", "CutMix")  # an arm each, and one with synthetic
    classifier_batch_size: BatchSize = 32  # images per step
    classifier_lr: PositiveShare = 1e-3  # peak learning rate
    classifier_synthetic_shares: TwoShares = (1.0, 0.0)  # synthetic share in the first and last batch, linear between
    classifier_seeds: Size = 3  # repetitions of every arm and fold, each with its own seed

    def __post_init__(self) -> None:
        convert_fields(self)        # from Python, a path may be text, and a tuple a list


PRESETS = {
    "full": Config(),
    "cpu-hours": replace(
        Config(), preset="cpu-hours", cond_drop_prob=0.15, train_batch_size=16,
        gradient_accumulate_every=1, train_lr=5e-4, train_num_steps=2000, ema_decay=0.999, ema_update_every=1,
        save_and_sample_every=500, classifier_image_size=96, classifier_epochs=100,
        classifier_augmentations=("classical",), classifier_batch_size=16, classifier_lr=3e-3, classifier_seeds=2),
    "cpu-minutes": replace(
        Config(), preset="cpu-minutes", dim=32, cond_drop_prob=0.15,
        train_batch_size=32, gradient_accumulate_every=1, train_lr=1e-3, train_num_steps=1200, ema_decay=0.995,
        ema_update_every=1, save_and_sample_every=400, log_every=20, classifier_image_size=64, classifier_epochs=25,
        classifier_augmentations=("classical",), classifier_batch_size=64, classifier_lr=3e-3, classifier_seeds=2),
}


def main(config: Config, *, resume: str | None = None, start_from: Path | None = None) -> bool:
    """Train the latent diffusion model, step 3 of 5. Ctrl-C, SIGTERM and max_train_hours save before they stop.

    Returns whether training is complete.

    Args:
        resume: continue from a checkpoint in results_folder: latest, or the number of a milestone
        start_from: begin with the weights of another training, which may have had other users: model-<m>.pt,
            model.safetensors or a results folder
    """
    from microdoppler.pipeline.training import train  # imported here, since it imports Config
    return train(config, resume, start_from)


if __name__ == "__main__":
    run(main, PRESETS, Config.preset, shares_work=True)
