"""Reads the weights of an autoencoder, whoever wrote them, and converts them to the layout of KL_VAE.

Three layouts are known. Their names differ:

    KL_VAE              down.0.block.0.nin_shortcut                  down.0.downsample
    latent-diffusion    down.0.block.0.nin_shortcut                  down.0.downsample.conv
    diffusers           down_blocks.0.resnets.0.conv_shortcut        down_blocks.0.downsamplers.0.conv

The networks of the last two differ from KL_VAE in three points: they upsample to the nearest neighbour and then
convolve, which `convert` turns into a transposed convolution; they pad downsamplings on two sides only, and take images
in -1 … 1, which KL_VAE does with `latent_diffusion`.

Sources of the names: CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py; diffusers 0.42, AutoencoderKL.
"""
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor

from groundwork.errors import InputError, shortened
from groundwork.files import load_safetensors, load_tensors, read_json

FIRST = "encoder.conv_in.weight"        # what stands before it in a name is the prefix of the whole autoencoder
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "floor.")   # the rest is losses and the like
CODES = r"\bquanti[sz]er?\.|codebook"
# Which taps of a 3x3 kernel meet the same pixel, for each tap of a transposed 4x4 kernel, along one axis
TAPS = ((0., 0., 1.), (0., 1., 1.), (1., 1., 0.), (1., 0., 0.))
DIFFUSERS_FILE = "diffusion_pytorch_model"
# In checkpoints of latent-diffusion and Stable Diffusion, beside the weights: the key of Lightning's state, and the
# best validation loss as NumPy's number. Nothing of it is needed.
BESIDE_WEIGHTS = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "numpy.dtype",
                  "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

# From the names of diffusers to those of latent-diffusion, in this order. Its earlier versions called the layers of
# attention query, key, value and proj_attn.
RENAMED = {
    r"\.down_blocks\.(\d+)\.": r".down.\1.",
    r"\.up_blocks\.(\d+)\.": r".up.\1.",                    # counted from the other end: see _rename
    r"\.downsamplers\.0\.": ".downsample.",
    r"\.upsamplers\.0\.": ".upsample.",
    r"\.mid_block\.resnets\.0\.": ".mid.block_1.",
    r"\.mid_block\.resnets\.1\.": ".mid.block_2.",
    r"\.mid_block\.attentions\.0\.": ".mid.attn_1.",
    r"\.resnets\.(\d+)\.": r".block.\1.",
    r"\.conv_shortcut\.": ".nin_shortcut.",
    r"\.conv_norm_out\.": ".norm_out.",
    r"\.group_norm\.": ".norm.",
    r"\.(?:to_q|query)\.": ".q.",
    r"\.(?:to_k|key)\.": ".k.",
    r"\.(?:to_v|value)\.": ".v.",
    r"\.(?:to_out\.0|proj_attn)\.": ".proj_out.",
}

# What a file without an autoencoder of this kind is, by the names of its tensors; the first that matches.
KINDS = {
    r"\blayer1\.0\.conv1\.": "a ResNet",
    CODES: "a VQ autoencoder, whose latents are codes",
    r"\bencoder\.(conv_in\.conv|conv1|downsamples\.\d)": "a video autoencoder",
    r"\bencoder\.layers\.\d+\.(weight|conv\.)": "a tiny autoencoder (TAESD)",
    r"\binit_conv\.weight|\bdiffusion_model\.|\binput_blocks\.|\btime_embed|\bdown_blocks\.":
        "the U-Net of a diffusion checkpoint",
    r"\bfeatures\.\d+\.(weight|conv)": "a classifier (VGG or the like)",
    r"\btext_model\.|\btoken_embedding\.|\bembeddings\.word": "a text encoder",
    r"\b(blocks|layers?|resblocks)\.\d+\.(attn|attention|self_attn)": "a transformer",
    r"\bloss\.discriminator|\bdiscriminator\.": "a discriminator",
}

# What an autoencoder with other layers has, by the names of these layers or of missing ones.
OTHER_LAYERS = {
    r"\.(down|up)\.\d+\.(attn|attentions)\.": "attention outside the middle",
    r"temporal|time_": "layers over time",
    r"\.mid\.attn_1\.": "no attention in the middle",
}


@dataclass(frozen=True)
class About:
    """What a file says of its weights; None: nothing. image_size: in pixels, of the images that they were trained on;
    trained_on: digest of the paths of these; latents_of: fingerprint of the VAE whose encoder they have kept."""
    scale_factor: float | None
    image_size: int | None
    trained_on: str | None
    latents_of: str | None


def read_vae(path: Path) -> tuple[dict[str, Tensor], About]:
    """Read weights, in the layout of KL_VAE, and what is said of them, from a file or a folder of diffusers.

    The weights may stand under any prefix (`module.`, `first_stage_model.`) and in any dict of the file
    (`state_dict`). Where there are several autoencoders, an averaged one (EMA) is taken. A line says what was taken if
    it is not simply an autoencoder of ours.

    Raises InputError if there is no such file, if it is damaged, or if it holds something else, which is named.
    """
    path, config = _find(path)
    content = _load(path)
    tensors = {name: value for name, value in _leaves(content) if isinstance(value, Tensor)}
    prefixes = [name.removesuffix(FIRST) for name in tensors if re.search(rf"(^|\.){re.escape(FIRST)}$", name)]
    prefixes.sort(key=lambda prefix: not re.search("ema|average", prefix))      # stable
    if not prefixes or any(re.match(CODES, name.removeprefix(prefixes[0])) for name in tensors):
        raise InputError(f"{path} is no VAE that can be used here: it holds {_describe(content, list(tensors))}; "
                         "expected the weights of python -m vae.train, of latent-diffusion or of diffusers' "
                         "AutoencoderKL (docs/own_vae.md)")
    prefix = prefixes[0]
    found = {name.removeprefix(prefix): value for name, value in tensors.items()
             if name.startswith(tuple(prefix + part for part in PARTS))}
    weights, layout = convert(found)
    if layout == "diffusers":
        _check_layers(path, weights, config)
    scale = _scale_factor(path, config.get("scaling_factor") if config else _stored_scale_factor(content))
    if layout != "KL_VAE" or prefix not in ("", "model_state_dict."):
        print(f"{path}: an autoencoder in the layout of {layout}" + (f", found under {prefix[:-1]}" if prefix else "")
              + (", without config.json: taken to have 32 groups in each norm" if layout == "diffusers" and not config
                 else ""))
    return weights, About(scale, _stored_image_size(content), _stored_text(content, "trained_on"),
                          _stored_text(content, "latents_of"))


def _find(path: Path) -> tuple[Path, dict]:
    """(the file of weights, diffusers' config.json beside it or {}). path: a file, or a folder that diffusers wrote, of
    which the file in full precision is taken if there are several.
    """
    if path.is_dir():
        files = [file for folder in (path, path / "vae") for file in folder.glob(f"{DIFFUSERS_FILE}*")
                 if re.fullmatch(rf"{DIFFUSERS_FILE}(\.\w+)?\.(safetensors|bin)", file.name)]
        if not files:
            found = shortened(sorted(file.name for file in path.iterdir())) or "nothing"
            raise InputError(f"vae_path {path} is a folder without {DIFFUSERS_FILE}.safetensors or .bin, which holds "
                             f"{found}; give the file of weights itself with --vae_path")
        path = min(files, key=lambda file: (file.parent != path, len(file.suffixes), file.suffix == ".bin", file.name))
    if not path.is_file():
        raise InputError(f"vae_path {path} does not exist; give the weights of your VAE with --vae_path, or train one "
                         "with python -m vae.train (docs/own_vae.md)")
    beside = path.with_name("config.json")
    if not (path.name.startswith(DIFFUSERS_FILE) and beside.is_file()):
        return path, {}
    config = read_json(beside)
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "AutoencoderKL":
        raise InputError(f"{beside} describes {kind or 'no network'}; expected diffusers' AutoencoderKL, as in the "
                         "folder vae of Stable Diffusion")
    return path, config


def _load(path: Path) -> object:
    """The content of a PyTorch or safetensors file; the latter as a dict of its tensors and of its header's values."""
    if path.suffix != ".safetensors":
        return load_tensors(path, ignoring=BESIDE_WEIGHTS)
    weights, about = load_safetensors(path)
    return {**about, **weights}


def _leaves(content: object, prefix: str = "", depth: int = 8) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in nested dicts, with names such as state_dict.encoder.conv_in.weight."""
    if not isinstance(content, dict) or depth == 0:
        yield prefix[:-1], content
        return
    for name, value in content.items():
        yield from _leaves(value, f"{prefix}{name}.", depth - 1)


def _stored_image_size(content: object) -> int | None:
    """The image size that vae.train stored; None in files of others."""
    size = content.get("image_size") if isinstance(content, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def _stored_text(content: object, name: str) -> str | None:
    """A text that vae.train stored; None in files of others and of older versions."""
    text = content.get(name) if isinstance(content, dict) else None
    return text if isinstance(text, str) else None


def _stored_scale_factor(content: object) -> object:
    """The scale factor in a file, where ours and those of latent-diffusion have it; None if there is none."""
    return next((value for name, value in _leaves(content) if name.split(".")[-1] == "scale_factor"), None)


def _scale_factor(path: Path, found: Any) -> float | None:
    """The scale factor found, as a number. Raises InputError if it is none."""
    if found is None:
        return None
    try:
        scale = float(found)
    except (TypeError, ValueError, RuntimeError):
        scale = math.nan
    if not 0 < scale < math.inf:
        raise InputError(f"{path} has the scale factor {found!r}; expected a number above 0")
    return scale


def convert(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """(weights in the layout of KL_VAE, name of the layout they had). weights: without prefix, in any known layout.

    Upsampling to the nearest neighbour and then convolving with 3x3 is the same as one transposed 4x4 convolution, as
    KL_VAE does: its kernel adds up the taps that meet copies of one pixel. A downsampling that pads right and bottom
    only has no equal, and is named downsample.1, as in Encoder. Linear layers become 1x1 convolutions. A VAE without
    quant_conv has the identity there.
    """
    is_diffusers = any(".mid_block." in name for name in weights)
    num_levels = len({match[0] for name in weights if (match := re.match(r"decoder\.up_blocks\.\d+", name))})
    converted = {}
    for name, weight in weights.items():
        name = _rename(name, num_levels)
        if weight.ndim == 2 and ".attn_1." in name:
            weight = weight[:, :, None, None]
        if name.endswith(".upsample.conv.weight") and weight.ndim == 4:
            weight = transposed(weight.float())
        converted[re.sub(r"\.upsample\.conv\.", ".upsample.", name)] = weight
    is_latent_diffusion = any(".downsample.conv." in name for name in converted)
    converted = {name.replace(".downsample.conv.", ".downsample.1."): weight for name, weight in converted.items()}
    if is_diffusers or is_latent_diffusion:
        for name, neighbour, dim in (("quant_conv", "encoder.conv_out", 0), ("post_quant_conv", "decoder.conv_in", 1)):
            weight = converted.get(f"{neighbour}.weight", torch.empty(0))
            if f"{name}.weight" not in converted and weight.ndim == 4:
                size = weight.shape[dim]
                converted |= {f"{name}.weight": torch.eye(size)[:, :, None, None], f"{name}.bias": torch.zeros(size)}
    return converted, "diffusers" if is_diffusers else "latent-diffusion" if is_latent_diffusion else "KL_VAE"


def _rename(name: str, num_levels: int) -> str:
    """The name in latent-diffusion of a weight that has this name in diffusers; others stay as they are."""
    name = re.sub(r"(?<=\.up_blocks\.)\d+", lambda match: str(num_levels - 1 - int(match[0])), name)
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name


def transposed(weight: Tensor) -> Tensor:
    """The kernel (in, out, 4, 4) of the transposed convolution of stride 2 and padding 1 that equals nearest-neighbour
    upsampling by 2 and then a convolution with `weight`, (out, in, 3, 3).
    """
    taps = torch.tensor(TAPS, dtype=weight.dtype, device=weight.device)
    return torch.einsum("ai,ocij,bj->coab", taps, weight, taps)


def nearest_convolution(weight: Tensor) -> Tensor:
    """The kernel (out, in, 3, 3) of a convolution after nearest-neighbour upsampling that is as near as can be, in
    least squares of the kernel, to the transposed convolution (in, out, 4, 4): the inverse of `transposed`, if it has
    one.
    """
    inverse = torch.linalg.pinv(torch.tensor(TAPS, dtype=torch.float64)).to(weight.device)
    return torch.einsum("ia,coab,jb->ocij", inverse, weight.double(), inverse).to(weight.dtype)


def without_grid(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of KL_VAE for a decoder with `noise_inputs`, which upsamples to the nearest neighbour and then convolves.
    Converted weights stay exact.
    """
    converted = {}
    for name, weight in weights.items():
        if re.search(r"\.upsample\.(weight|bias)$", name):
            name = name.replace(".upsample.", ".upsample.1.")
            if weight.ndim == 4:
                weight = nearest_convolution(weight)
        converted[name] = weight
    return converted


def infer_shape(path: str | Path, weights: dict[str, Tensor]) -> tuple[dict[str, Any], int]:
    """(ddconfig, embed_dim) of weights in the layout of KL_VAE. Raises InputError if they are of no such network."""
    def size(name: str, dim: int) -> int:
        if name not in weights:
            raise InputError(f"{path} holds an autoencoder without {name}; are these all of its weights?")
        shape = tuple(weights[name].shape)
        if len(shape) != 4 or 0 in shape:
            raise InputError(f"{path} has {name} of shape {shape}; expected a 2-D convolution")
        return shape[dim]

    ch = size(FIRST, 0)
    widths = [size(f"encoder.down.{level}.block.0.conv1.weight", 0) for level in _count(weights, "encoder.down")]
    if not widths or any(width % ch for width in widths):
        raise InputError(f"{path} holds an autoencoder with {ch} channels, then {widths} in its levels; expected "
                         f"multiples of {ch}")
    return {"in_channels": size(FIRST, 1), "out_ch": size("decoder.conv_out.weight", 0), "ch": ch,
            "ch_mult": tuple(width // ch for width in widths),
            "num_res_blocks": len(_count(weights, "encoder.down.0.block")),
            "z_channels": size("decoder.conv_in.weight", 1),
            "latent_diffusion": any(".downsample.1." in name for name in weights),
            "noise_inputs": any(".noise." in name for name in weights),
            }, size("post_quant_conv.weight", 1)


def _count(weights: dict[str, Tensor], name: str) -> range:
    """0, 1, … of the weights that begin with `name`.0, `name`.1, …"""
    numbers = {match[1] for key in weights if (match := re.match(rf"{re.escape(name)}\.(\d+)\.", key))}
    return range(len(numbers))


def _check_layers(path: Path, weights: dict[str, Tensor], config: dict) -> None:
    """Raises InputError if diffusers' network has one level, or other group norms or activations than KL_VAE."""
    if not any(".downsample." in name for name in weights):
        raise InputError(f"{path} is an AutoencoderKL that does not make images smaller; expected two levels or more")
    groups, activation = config.get("norm_num_groups", 32), config.get("act_fn", "silu")
    widths = sorted({weight.numel() for name, weight in weights.items() if re.search(r"norm\d?\.bias$", name)})
    expected = [math.gcd(32, width) for width in widths]
    if activation != "silu" or config and set(expected) != {groups}:
        raise InputError(f"{path} is an AutoencoderKL with norm_num_groups {groups} and act_fn {activation} "
                         f"(config.json beside it says them); expected {shortened([f'{n}' for n in expected])} groups "
                         f"for its norms of {shortened([f'{width}' for width in widths])} channels, and silu")


def check_fit(path: str | Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises InputError, with the layers that KL_VAE lacks or the first few weights that differ, if weights in its
    layout do not fit the network that their shapes suggest.
    """
    theirs, ours = ({name: tuple(weight.shape) for name, weight in state.items()} for state in (found, expected))
    names = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    if not names:
        return
    reasons = [reason for pattern, reason in OTHER_LAYERS.items()
               if any(re.search(pattern, name) and (name in theirs) != reason.startswith("no ") for name in names)]
    differences = [f"{name} found {theirs.get(name, 'none')}, expected {ours.get(name, 'none')}" for name in names[:3]]
    because = f"it has {' and '.join(reasons)}: " if reasons else ""
    raise InputError(f"{path} holds an autoencoder that does not fit KL_VAE; {because}its weights differ in "
                     f"{len(names)} {'place' if len(names) == 1 else 'places'}: {'; '.join(differences)}")


def _describe(content: object, names: list[str]) -> str:
    """What a file holds, for an error message; names: of all tensors in it."""
    for pattern, kind in KINDS.items():
        if any(re.search(pattern, name) for name in names):
            return kind
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    kind = "a diffusion checkpoint with " if {"model", "ema"} <= set(content) else ""
    return f"{kind}the keys {shortened([repr(key) for key in content], 6)}" if content else "nothing"
