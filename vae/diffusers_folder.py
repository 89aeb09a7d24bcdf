"""Writes a KL_VAE as a folder that diffusers reads with AutoencoderKL.from_pretrained, where that network can compute
the same: the inverse of `convert` in vae/layouts.py.

diffusers pads downsamplings right and bottom only, and upsamples to the nearest neighbour and then convolves. So a VAE
that came from diffusers or latent-diffusion can be written, and one that vae.train trained from nothing cannot.
"""
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundwork.errors import InputError, shortened
from groundwork.files import save_safetensors, write_json
from vae.kl_vae import KL_VAE
from vae.layouts import DIFFUSERS_FILE, nearest_convolution, transposed

WRITTEN = ("in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "z_channels", "latent_diffusion")  # of ddconfig
TOLERANCE = 1e-5        # of a kernel's norm: rounding when the taps were added up in float32

# From the names of KL_VAE to those of diffusers, in this order.
RENAMED = {
    r"\.down\.(\d+)\.block\.": r".down_blocks.\1.resnets.",
    r"\.down\.(\d+)\.downsample\.1\.": r".down_blocks.\1.downsamplers.0.conv.",
    r"\.up\.(\d+)\.block\.": r".up_blocks.\1.resnets.",             # counted from the other end: see _rename
    r"\.up\.(\d+)\.upsample\.": r".up_blocks.\1.upsamplers.0.conv.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.norm\.": ".mid_block.attentions.0.group_norm.",
    r"\.mid\.attn_1\.([qkv])\.": r".mid_block.attentions.0.to_\1.",
    r"\.mid\.attn_1\.proj_out\.": ".mid_block.attentions.0.to_out.0.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.norm_out\.": ".conv_norm_out.",
}


def save_diffusers(vae: KL_VAE, folder: Path) -> None:
    """Write config.json and diffusion_pytorch_model.safetensors into `folder`. The config's scaling_factor is the VAE's
    scale_factor.

    Raises InputError, and writes nothing, if AutoencoderKL cannot compute the same.
    """
    config, weights = _config(vae), _weights(vae)
    save_safetensors(folder / f"{DIFFUSERS_FILE}.safetensors", weights, {})
    write_json(folder / "config.json", config)


def _config(vae: KL_VAE) -> dict[str, Any]:
    """The arguments of AutoencoderKL. Raises InputError with all reasons why there are none for this VAE."""
    ddconfig = vae.ddconfig
    widths = [ddconfig["ch"] * mult for mult in ddconfig["ch_mult"]]
    num_groups = sorted({module.num_groups for module in vae.modules() if isinstance(module, torch.nn.GroupNorm)})
    others = [key for key, value in ddconfig.items() if value and key not in WRITTEN]
    reasons = {
        "it pads downsamplings on all sides and takes images in 0 … 1, as those of python -m vae.train do":
            not ddconfig["latent_diffusion"],
        f"its ch_mult begins with {ddconfig['ch_mult'][0]}, not with 1": ddconfig["ch_mult"][0] != 1,
        f"its latents have {vae.embed_dim} channels, but z_channels is {ddconfig['z_channels']}":
            vae.embed_dim != ddconfig["z_channels"],
        f"its norms have {num_groups} groups, not all as many": len(num_groups) > 1,
        f"it has {shortened(others)}": bool(others),
    }
    if any(reasons.values()):
        raise InputError("this VAE cannot be written for diffusers: "
                         + "; ".join(reason for reason, holds in reasons.items() if holds)
                         + ". Expected one that came from diffusers or latent-diffusion (docs/own_vae.md)")
    return {"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": widths,
            "down_block_types": ["DownEncoderBlock2D"] * len(widths), "in_channels": ddconfig["in_channels"],
            "latent_channels": vae.embed_dim, "layers_per_block": ddconfig["num_res_blocks"],
            "norm_num_groups": num_groups[0], "out_channels": ddconfig["out_ch"],
            "scaling_factor": vae.scale_factor, "up_block_types": ["UpDecoderBlock2D"] * len(widths),
            **({} if vae.image_size is None else {"sample_size": vae.image_size})}


def _weights(vae: KL_VAE) -> dict[str, Tensor]:
    """The weights by the names of AutoencoderKL. Raises InputError if an upsampling is none of diffusers'."""
    num_levels, weights = len(vae.ddconfig["ch_mult"]), {}
    for name, weight in vae.state_dict().items():
        if ".mid.attn_1." in name and weight.ndim == 4:
            weight = weight[:, :, 0, 0]
        if name.endswith(".upsample.weight"):
            weight = _convolution(name, weight)
        weights[_rename(name, num_levels)] = weight
    return weights


def _rename(name: str, num_levels: int) -> str:
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(?<=\.up_blocks\.)\d+", lambda match: str(num_levels - 1 - int(match[0])), name)


def _convolution(name: str, weight: Tensor) -> Tensor:
    """The 3x3 kernel from which vae.layouts made this kernel of a transposed convolution. Raises InputError if there is
    none."""
    convolution = nearest_convolution(weight)
    if (transposed(convolution) - weight).norm() > TOLERANCE * weight.norm():
        raise InputError(f"this VAE cannot be written for diffusers: its upsampling {name} is no nearest neighbour and "
                         "then a convolution. Expected weights as they came from diffusers or latent-diffusion")
    return convolution
