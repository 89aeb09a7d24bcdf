"""Checks of Config, and the Config that a checkpoint was trained with."""
from dataclasses import replace
from typing import Iterable

from denoising_diffusion_pytorch.checkpoint import infer_config
from groundwork.errors import InputError
from groundwork.limits import check_limits, from_plain
from microdoppler.study.networks import plan_network
from microdoppler.study.copies import FARTHEST_DOPPLER_SHIFT
from train_latent_cfg import PRESETS, Config

# A resumed run must have the same values of these constants. The others may change: length, learning rate, paths,
# sampling and so on.
FIXED_BY_CHECKPOINT = (
    "num_users", "class_folders", "images_per_user_train", "split_strategy", "split_fold", "split_guard",
    "split_validation", "cuts_per_hop", "doppler_shift", "image_size", "latent_size", "latent_channels",
    "standardize_latents", "seed", "dim", "dim_mults", "attn_dim_head", "attn_heads", "timesteps", "objective",
    "beta_schedule", "auto_normalize", "min_loss_weight", "save_and_sample_every")


def check_constants(config: Config) -> None:
    """Raises InputError that names the first constant that is outside its limits or contradicts another constant."""
    if not 0 <= config.doppler_shift <= FARTHEST_DOPPLER_SHIFT:     # first: the limits of its type are wider
        raise InputError(f"doppler_shift is {config.doppler_shift}; expected 0 … {FARTHEST_DOPPLER_SHIFT:g}, as far as "
                         "near-copies are searched for")
    check_limits(config)
    check_latent_size(config)
    if (config.window_seconds > 0) != (config.velocity_range_mps != (0.0, 0.0)):
        raise InputError(f"window_seconds is {config.window_seconds}, velocity_range_mps {config.velocity_range_mps}; "
                         "expected both or neither")
    if config.use_cfg_plus_plus and not 0 < config.cond_scale <= 1:
        raise InputError(f"cond_scale is {config.cond_scale} with use_cfg_plus_plus; expected (0, 1], try 0.6")


def check_new_config(config: Config) -> None:
    """`check_constants` of a Config that somebody wrote, not of a checkpoint. Raises InputError."""
    check_constants(config)
    _check_preset(config)
    plan_network(config.classifier, config.classifier_image_size)


def _check_preset(config: Config) -> None:
    """Raises InputError for a Config(preset=…), which does not have the constants of this preset. Its constants may
    differ from the preset's; but if most of them are those of a plain Config, then it was not made from the preset."""
    if config.preset not in PRESETS:
        raise InputError(f"preset {config.preset} is unknown; expected one of {', '.join(PRESETS)}")
    own = {name: value for name, value in vars(PRESETS[config.preset]).items() if value != getattr(Config(), name)}
    own.pop("preset", None)
    kept = sum(getattr(config, name) == value for name, value in own.items())
    plain = sum(getattr(config, name) == getattr(Config(), name) for name in own)
    if plain > kept:
        raise InputError(f'Config(preset="{config.preset}") does not have the constants of this preset; expected '
                         f'PRESETS["{config.preset}"] of train_latent_cfg, or dataclasses.replace(PRESETS['
                         f'"{config.preset}"], …) with the constants that differ')


def check_latent_size(config: Config) -> None:
    """Raises InputError when the network cannot halve the latents as often as it has levels."""
    if config.latent_size % (factor := 2 ** (len(config.dim_mults) - 1)):
        raise InputError(f"latent_size is {config.latent_size}; expected a multiple of {factor}, as the "
                         f"{len(config.dim_mults)} dim_mults halve it {len(config.dim_mults) - 1} times")


def option_words(config: Config, names: Iterable[str]) -> list[str]:
    """The options of a command line for those of the named constants that differ from their preset's."""
    preset, words = PRESETS.get(config.preset, Config()), []
    if config.preset != Config.preset:
        words += ["--preset", config.preset]
    for name in names:
        value = getattr(config, name)
        if name == "preset" or value == getattr(preset, name):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def config_of(checkpoint: dict) -> Config:
    """The Config that a checkpoint was trained with.

    Where an older checkpoint has no config, the shapes of its tensors give the constants of the network. Raises
    InputError when the checkpoint's config is not one that this project wrote.
    """
    # Constants that older versions did not have, with the values that reproduce what those versions did.
    defaults = replace(Config(), split_validation=0.0, cuts_per_hop=1, doppler_shift=0.0, min_loss_weight=0.0,
                       image_size=256, latent_size=32, latent_channels=4, num_users=31)
    if not checkpoint.get("config"):
        known = infer_config(checkpoint)
        return replace(defaults, num_users=known.pop("num_classes"), latent_channels=known.pop("channels"),
                       standardize_latents=False, **known)
    try:
        return from_plain(checkpoint["config"], defaults)
    except InputError as error:
        raise InputError(f"the checkpoint's config is none of ours ({error}); expected constants of Config") from None
