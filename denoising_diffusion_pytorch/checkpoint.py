"""Checkpoints: written completely or not at all, and read without running code. Two formats can be read.

The current format is a dict with "format", "package_version", "step", "seconds", "model", "opt", "ema", "scaler",
"config" (the whole configuration, as plain values) and more. A checkpoint that is no longer needed to resume lacks
"model", "opt" and "scaler".

The older format has "step", "model", "opt", "ema" and possibly an empty config. Its tensors include the diffusion's
buffers. The settings that it does not store are inferred from its tensors.

For sharing, the EMA network alone is a safetensors file. Its tensors have the Unet's names. Its header holds the rest
of the checkpoint as JSON, without the entries that only resuming needs.
"""
import re
from pathlib import Path

import torch
from torch import Tensor

from denoising_diffusion_pytorch.classifier_free_guidance import BETA_SCHEDULES, OBJECTIVES, min_snr_weight
from denoising_diffusion_pytorch.unet import Unet
from groundwork.errors import InputError, printable
from groundwork.files import load_safetensors, load_tensors, save_safetensors, save_tensors

FORMAT = 2              # increase it when older code could misread the new files
ONLY_TO_RESUME = ("model", "opt", "scaler")
EMA_PREFIX = "ema_model.model."
CLASS_EMBEDDINGS = "classes_emb.weight"


def milestone_path(folder: str | Path, milestone: int) -> Path:
    """The checkpoint of a milestone: folder/model-<milestone>.pt."""
    return Path(folder) / f"model-{milestone}.pt"


def list_milestones(folder: str | Path) -> list[int]:
    """The milestones that have a checkpoint in `folder`, in ascending order."""
    folder = Path(folder)
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"model-(\d+)\.pt", name)))


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint, .pt or .safetensors, onto the CPU.

    Raises InputError if it does not exist (the message lists the milestones that do), if it is no diffusion checkpoint,
    or if its format is newer than this version's.
    """
    path = Path(path)
    if not path.is_file():
        milestones = ", ".join(map(str, list_milestones(path.parent))) or "none"
        raise InputError(f"checkpoint {path} does not exist; milestones in {path.parent}: {milestones}")
    checkpoint = _load_ema(path) if path.suffix == ".safetensors" else load_tensors(path)
    if not (isinstance(checkpoint, dict) and {"step", "ema"} <= checkpoint.keys()
            and checkpoint.keys() & {"model", "format"}):
        found = ", ".join(map(str, list(checkpoint)[:5])) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise InputError(f"{path} is no diffusion checkpoint: found {found} …, expected step, model and ema")
    if not (type(checkpoint.get("format", FORMAT)) is int and checkpoint.get("format", FORMAT) <= FORMAT):
        raise InputError(f"{path} is of format {checkpoint['format']}, and this version reads up to {FORMAT}: update "
                         "it (git pull)")
    for name, prefix in (("model", "model."), ("ema", EMA_PREFIX)):
        state = checkpoint.get(name)
        if state is None and name == "model":       # removed by prune_checkpoints
            continue
        if not (isinstance(state, dict) and f"{prefix}init_conv.weight" in state):
            raise InputError(f"{path} is no diffusion checkpoint of ours: its {name} holds no {prefix}init_conv.weight")
    return checkpoint


def prune_checkpoints(folder: str | Path, keep_last: int, keep_every: int) -> None:
    """Delete old checkpoints of a folder, and make the remaining old ones smaller.

    The newest `keep_last` milestones stay unchanged. Of the older ones, only those divisible by `keep_every` stay,
    without the entries that only resuming needs. Call it after every milestone: it goes back only as far as the first
    checkpoint that an earlier call has made smaller.
    """
    older = list_milestones(folder)[:-keep_last]
    for milestone in older:
        if milestone % keep_every:
            milestone_path(folder, milestone).unlink()
    for path in (milestone_path(folder, m) for m in reversed(older) if m % keep_every == 0):
        try:
            checkpoint = load_checkpoint(path)
        except InputError as error:
            print(printable(f"warning: {error}; it is left as it is"))
            continue
        if not checkpoint.keys() & set(ONLY_TO_RESUME):
            return
        if checkpoint.get("config"):        # older checkpoints have none: infer_config needs their "model"
            kept = {name: value for name, value in checkpoint.items() if name not in ONLY_TO_RESUME}
            save_tensors(path, {"format": FORMAT, **kept})


def ema_unet_weights(checkpoint: dict) -> dict[str, Tensor]:
    """The state dict of the EMA Unet, under the Unet's own names."""
    return {key.removeprefix(EMA_PREFIX): value for key, value in checkpoint["ema"].items()
            if key.startswith(EMA_PREFIX)}


def save_ema(path: str | Path, checkpoint: dict, config: dict) -> None:
    """Write the EMA network of a checkpoint as a safetensors file, in float32. load_checkpoint reads it.

    config: the configuration, as plain values.
    """
    header = {name: value for name, value in checkpoint.items() if name not in ("ema", *ONLY_TO_RESUME)}
    weights = {name: value.float() for name, value in ema_unet_weights(checkpoint).items()}
    save_safetensors(path, weights, {**header, "format": FORMAT, "config": config})


def _load_ema(path: Path) -> dict:
    """A safetensors file, in the form of a checkpoint. The bare tensors if save_ema did not write it."""
    weights, header = load_safetensors(path)
    return {**header, "ema": {EMA_PREFIX + name: value for name, value in weights.items()}} if header else weights


def load_unet_weights(unet: torch.nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Load weights into a Unet. Raises InputError, with the first difference in names or shapes, if they are of another
    network.

    source: where the weights come from, for the message.
    """
    expected = {key: tuple(value.shape) for key, value in unet.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise InputError(f"{source} holds another network: {key} is {found.get(key, 'absent')}, "
                             f"expected {expected.get(key, 'absent')}")
    unet.load_state_dict(weights)


def load_starting_weights(unet: Unet, weights: dict[str, Tensor], source: str | Path) -> None:
    """Load the weights of another training into an untrained Unet, which may have another number of classes.

    With as many classes as before, all weights are taken as they are. Otherwise the class embeddings alone are new: the
    mean of the old ones, plus noise with their standard deviation in each dimension. So the layers behind them, which
    are taken too, get what they were trained for: a new class begins as a typical old one, and differs from the other
    new ones as much as the old ones did from each other. The noise is the Unet's own initialisation, N(0, 1).

    source: where the weights come from, for the message. Raises InputError if they are of another network.
    """
    old, new = weights.get(CLASS_EMBEDDINGS), unet.classes_emb.weight.detach()
    if old is not None and old.ndim == 2 and len(old) != len(new) and old.shape[1] == new.shape[1]:
        weights = {**weights, CLASS_EMBEDDINGS: old.mean(dim=0) + old.std(dim=0, correction=0) * new}
    load_unet_weights(unet, weights, source)


def infer_config(checkpoint: dict) -> dict:
    """Infer the settings of an older checkpoint's network and diffusion from its tensors.

    Returns dim, dim_mults, num_classes, channels, attn_heads, attn_dim_head, timesteps, beta_schedule, objective and
    min_snr_loss_weight. The number of heads of the middle attention cannot be inferred: heads of 32 channels are
    assumed, which all older checkpoints have. Raises InputError if a tensor is missing, or if the buffers fit no known
    schedule or objective.
    """
    weights = ema_unet_weights(checkpoint)
    try:
        buffers = checkpoint["model"]
        dim, channels = weights["init_conv.weight"].shape[:2]
        dim_mults, level = [], 0
        while f"downs.{level}.3.weight" in weights:
            dim_mults.append(weights[f"downs.{level}.3.weight"].shape[0] // dim)
            level += 1
        network = {"dim": dim, "dim_mults": tuple(dim_mults), "channels": channels,
                   "num_classes": weights[CLASS_EMBEDDINGS].shape[0],
                   "attn_dim_head": 32, "attn_heads": weights["mid_attn.fn.fn.to_out.weight"].shape[1] // 32}
        return {**network, **_infer_diffusion(buffers["alphas_cumprod"].double(), buffers["loss_weight"])}
    except KeyError as missing:
        raise InputError(f"the checkpoint holds another network: it has no {missing}, and no config that would say "
                         "what it is") from None


def _infer_diffusion(alphas_cumprod: Tensor, loss_weight: Tensor) -> dict:
    """The timesteps, beta_schedule, objective and min_snr_loss_weight that give these buffers, (timesteps,) each."""
    timesteps = len(alphas_cumprod)
    for name, schedule in BETA_SCHEDULES.items():
        if torch.allclose(torch.cumprod(1 - schedule(timesteps), dim=0), alphas_cumprod, rtol=1e-3, atol=1e-6):
            break
    else:
        raise InputError("the checkpoint's noise schedule is neither linear nor cosine; it cannot be sampled from here")
    for objective in OBJECTIVES:
        for min_snr in (True, False):
            weight = min_snr_weight(alphas_cumprod, objective, 5 if min_snr else None).float()
            if torch.allclose(weight, loss_weight, rtol=1e-3, atol=1e-6):
                return {"timesteps": timesteps, "beta_schedule": name, "objective": objective,
                        "min_snr_loss_weight": min_snr}
    raise InputError("the checkpoint's loss weights belong to no objective known here (pred_noise, pred_x0, pred_v)")
