"""Checkpoints: written whole, read without running code, in today's format and the older one.

Today's: {"format", "package_version", "step", "seconds", "model", "opt", "ema", "scaler", "config": the whole
configuration as plain values, ...}; once it is no longer needed to resume, without "model", "opt" and "scaler".
The older one has "step", "model", "opt", "ema" and possibly an empty config, and the diffusion's buffers among its
tensors; what it does not say is read off these.

To share, the averaged network alone is a safetensors file: its tensors under the Unet's names, and the rest of the
checkpoint, without what only resuming needs, as JSON in the header.
"""
import re
from pathlib import Path

import torch
from torch import Tensor

from denoising_diffusion_pytorch.classifier_free_guidance import BETA_SCHEDULES, OBJECTIVES, min_snr_weight
from groundwork.errors import InputError
from groundwork.files import load_safetensors, load_tensors, save_safetensors, save_tensors

FORMAT = 2              # raise it when older code could misread what is written
ONLY_TO_RESUME = ("model", "opt", "scaler")
EMA_PREFIX = "ema_model.model."


def milestone_path(folder: str | Path, milestone: int) -> Path:
    return Path(folder) / f"model-{milestone}.pt"


def list_milestones(folder: str | Path) -> list[int]:
    """The milestones of which `folder` holds a checkpoint, rising."""
    folder = Path(folder)
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"model-(\d+)\.pt", name)))


def load_checkpoint(path: str | Path) -> dict:
    """The checkpoint at `path`, .pt or .safetensors, on the CPU. Raises InputError, naming the milestones there are,
    when it is absent, and when it is no diffusion checkpoint.
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
        if state is None and name == "model":       # thinned
            continue
        if not (isinstance(state, dict) and f"{prefix}init_conv.weight" in state):
            raise InputError(f"{path} is no diffusion checkpoint of ours: its {name} holds no {prefix}init_conv.weight")
    return checkpoint


def thin_out(folder: str | Path, keep_last: int, keep_every: int) -> None:
    """Leave the newest `keep_last` milestones as they are, of the others every `keep_every`-th, without what only
    resuming needs. To be called after every milestone: it looks no further back than what an earlier call has thinned.
    """
    older = list_milestones(folder)[:-keep_last]
    for milestone in older:
        if milestone % keep_every:
            milestone_path(folder, milestone).unlink()
    for path in (milestone_path(folder, m) for m in reversed(older) if m % keep_every == 0):
        try:
            checkpoint = load_checkpoint(path)
        except InputError as error:
            print(f"warning: {error}; it is left as it is")
            continue
        if not checkpoint.keys() & set(ONLY_TO_RESUME):
            return
        if checkpoint.get("config"):        # the first version's need their "model" to say what they are
            kept = {name: value for name, value in checkpoint.items() if name not in ONLY_TO_RESUME}
            save_tensors(path, {"format": FORMAT, **kept})


def ema_unet_weights(checkpoint: dict) -> dict[str, Tensor]:
    """The state dict of the EMA's Unet."""
    return {key.removeprefix(EMA_PREFIX): value for key, value in checkpoint["ema"].items()
            if key.startswith(EMA_PREFIX)}


def save_ema(path: str | Path, checkpoint: dict, config: dict) -> None:
    """The averaged network of a checkpoint as safetensors, which load_checkpoint reads; config: its configuration."""
    about = {name: value for name, value in checkpoint.items() if name not in ("ema", *ONLY_TO_RESUME)}
    weights = {name: value.float() for name, value in ema_unet_weights(checkpoint).items()}
    save_safetensors(path, weights, {**about, "format": FORMAT, "config": config})


def _load_ema(path: Path) -> dict:
    """As a checkpoint; the bare tensors when they are no network of ours."""
    weights, about = load_safetensors(path)
    return {**about, "ema": {EMA_PREFIX + name: value for name, value in weights.items()}} if about else weights


def load_unet_weights(unet: torch.nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Raises InputError with the first difference when the weights are those of another network."""
    expected = {key: tuple(value.shape) for key, value in unet.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise InputError(f"{source} holds another network: {key} is {found.get(key, 'absent')}, "
                             f"expected {expected.get(key, 'absent')}")
    unet.load_state_dict(weights)


def read_off_tensors(checkpoint: dict) -> dict:
    """What an older checkpoint's tensors say of its network and diffusion: dim, dim_mults, num_classes, channels,
    attn_heads, attn_dim_head, timesteps, beta_schedule, objective, min_snr_loss_weight.

    The split of the middle attention into heads leaves no trace: heads of 32 are assumed, as ever there.
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
                   "num_classes": weights["classes_emb.weight"].shape[0],
                   "attn_dim_head": 32, "attn_heads": weights["mid_attn.fn.fn.to_out.weight"].shape[1] // 32}
        return {**network, **_read_off_buffers(buffers["alphas_cumprod"].double(), buffers["loss_weight"])}
    except KeyError as missing:
        raise InputError(f"the checkpoint holds another network: it has no {missing}, and no config that would say "
                         "what it is") from None


def _read_off_buffers(alphas_cumprod: Tensor, loss_weight: Tensor) -> dict:
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
