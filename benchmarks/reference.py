"""The reference that users would otherwise run: denoising-diffusion-pytorch, used as its README shows.

Version 2.2.5 is the one that our network was written after; 2.3.4 was the newest on 2026-11-26. Their packages have the
same import name as ours. So they are not installed: the one module that is needed is loaded out of the wheel, under
another name. A machine without internet gets the wheels from one with it:

    python -m benchmarks.reference      # then copy the folder benchmarks/reference
"""
import copy
import importlib.util
import subprocess
import sys
import zipimport
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from groundwork.command_line import run
from groundwork.device import in_memory_format
from groundwork.errors import InputError
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE

VERSIONS = ("2.2.5", "2.3.4")
FOLDER = Path(__file__).parent / "reference"        # git ignores it
DDIM_STEPS = 250
# Constants of its README.
README_CONSTANTS: dict[str, Any] = {"train_lr": 8e-5, "ema_decay": 0.995, "ema_update_every": 10, "cond_scale": 6.0}


def wheel(version: str) -> Path:
    """The wheel of this version in FOLDER, downloaded with pip on first use. Raises InputError if pip fails."""
    path = FOLDER / f"denoising_diffusion_pytorch-{version}-py3-none-any.whl"
    if not path.exists():
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER),
                               f"denoising-diffusion-pytorch=={version}"], capture_output=True, text=True)
        if done.returncode or not path.exists():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"{path} does not exist, and pip cannot download it ({reason}); where there is internet, "
                             f"run python -m benchmarks.reference, and copy the folder {FOLDER} from there")
    return path


@cache
def load(version: str) -> ModuleType:
    """The module classifier_free_guidance of one of VERSIONS. Raises InputError if its wheel is not to be had."""
    importer = zipimport.zipimporter(str(wheel(version) / "denoising_diffusion_pytorch"))
    spec = importlib.util.spec_from_loader(f"reference_{version.replace('.', '_')}.classifier_free_guidance", importer)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module     # its namedtuples and dataclasses look up their module there
    spec.loader.exec_module(module)
    setattr(module, "tqdm", lambda steps, **_: steps)
    return module


def build_diffusion(config: Config, device: torch.device, version: str = VERSIONS[0]) -> Any:
    """The reference's GaussianDiffusion with its Unet, with the network and noise schedule of our Config."""
    library = load(version)
    unet = library.Unet(config.dim, config.num_users, dim_mults=config.dim_mults, channels=config.latent_channels,
                        attn_dim_head=config.attn_dim_head, attn_heads=config.attn_heads,
                        cond_drop_prob=config.cond_drop_prob)
    return library.GaussianDiffusion(unet, image_size=config.latent_size, timesteps=config.timesteps,
                                     sampling_timesteps=DDIM_STEPS, objective=config.objective,
                                     beta_schedule=config.beta_schedule, ddim_sampling_eta=0.0,
                                     min_snr_loss_weight=True, min_snr_gamma=5).to(device)


class Training:
    """The reference's training loop: float32, and a loss that is read after every batch. Batch size, accumulation,
    learning rate and EMA come from Config."""

    def __init__(self, config: Config, latents: Tensor, labels: Tensor, device: torch.device,
                 version: str = VERSIONS[0]):
        """latents: (n, c, h, w), expected in [0, 1], which the reference maps to [-1, 1]; labels: (n,) int64."""
        self.latents, self.labels, self.device = latents, labels, device
        self.diffusion = build_diffusion(config, device, version).train()
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=config.train_lr, betas=config.adam_betas)
        try:
            from ema_pytorch import EMA     # nothing else needs it
        except ImportError:
            raise InputError("the reference's training needs ema-pytorch: pip install ema-pytorch") from None
        self.ema = EMA(self.diffusion, beta=config.ema_decay, update_every=config.ema_update_every)
        self.max_grad_norm = config.max_grad_norm
        self.batch, self.accumulate = config.train_batch_size, config.gradient_accumulate_every

    def step(self) -> float:
        """One optimisation step; returns the mean loss."""
        total = 0.0
        for _ in range(self.accumulate):
            chosen = torch.randint(len(self.latents), (self.batch,))
            x, classes = self.latents[chosen].to(self.device), self.labels[chosen].to(self.device)
            loss = self.diffusion(x, classes=classes) / self.accumulate
            total += loss.item()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()
        return total


class PlainVAE:
    """The VAE as it is usually used: contiguous memory format, one image at a time."""

    def __init__(self, vae: KL_VAE):
        self.vae = in_memory_format(copy.deepcopy(vae), torch.contiguous_format)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(3, height, width) in [0, 1] → the posterior's mean (channels, h, w)."""
        return self.vae.quant_conv(self.vae.encoder(image[None])).chunk(2, dim=1)[0][0]

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """A scaled latent (channels, h, w) → image (3, height, width) in [0, 1]."""
        return self.vae.decoder(self.vae.post_quant_conv(latent[None] / self.vae.scale_factor))[0].clamp(0, 1)


class Classification:
    """The usual training loop of a ResNet18: a DataLoader whose workers decode JPGs, float32, a loss that is read after
    every step."""

    def __init__(self, folder: Path, image_size: int, batch_size: int, lr: float, device: torch.device):
        transform = transforms.Compose([transforms.Resize((image_size, image_size)), transforms.ToTensor(),
                                        transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
        images = datasets.ImageFolder(str(folder), transform)
        self.loader = DataLoader(images, batch_size, shuffle=True, num_workers=2, drop_last=True,
                                 persistent_workers=True, pin_memory=device.type == "cuda")
        self.model = models.resnet18(weights=None, num_classes=len(images.classes)).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.device = device

    def run(self, num_steps: int) -> None:
        """Train for num_steps steps, starting with a new epoch."""
        done = 0
        while done < num_steps:
            for images, labels in self.loader:
                loss = torch.nn.functional.cross_entropy(self.model(images.to(self.device)), labels.to(self.device))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                loss.item()
                done += 1
                if done == num_steps:
                    return


def main() -> None:
    """Download the wheels of all versions, for a machine without internet."""
    print("\n".join(str(wheel(version)) for version in VERSIONS))


if __name__ == "__main__":
    run(main)
