"""What a check is, and what the checks have in common: a size, latents to train on, trainers, and precisions."""
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import FULL_SIZE
from denoising_diffusion_pytorch import rms_norm
from denoising_diffusion_pytorch.trainer import Trainer
from groundwork import cuda_graph, device as device_of
from microdoppler.data.latents import LatentCache
from microdoppler.pipeline.assembly import build_diffusion, build_trainer
from train_latent_cfg import Config
from vae.kl_vae import SCALE_FACTOR

TINY = replace(FULL_SIZE, dim=16, latent_size=8, num_users=4, train_batch_size=4, train_lr=1e-3, image_size=32,
               sampling_timesteps=3, classifier_image_size=32, classifier_batch_size=8)


@dataclass(frozen=True)
class Outcome:
    """What a check found. line: the figure and its bound, in words; figures: for the JSON file."""
    passed: bool
    line: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What checks run on. config: FULL_SIZE or TINY."""
    device: torch.device
    config: Config
    scratch: Path       # a folder to write to

    @property
    def is_tiny(self) -> bool:
        return self.config == TINY

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def is_held_to_ratios(self) -> bool:
        """Whether the ratios to the reference's speed must be reached: not by a tiny network, nor by old cards."""
        return not self.is_tiny and not (self.on_cuda and torch.cuda.get_device_capability(self.device) < (8, 0))

    def count(self, on_cuda: int, elsewhere: int) -> int:
        """Steps or repetitions: as many as a card does in a second or two, or as a test has time for."""
        return on_cuda if self.on_cuda and not self.is_tiny else elsewhere


@dataclass(frozen=True)
class Check:
    """A check: function(setting) -> Outcome. It must be found by its module and name in another process.

    seconds: its time limit; group: what --only chooses by; needs_cuda: left out on a CPU.
    """
    group: str
    function: Callable[[Setting], Outcome]
    seconds: float
    needs_cuda: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__.replace("_", " ")


def smooth_posteriors(config: Config, num_latents: int = 320) -> Tensor:
    """Posteriors (num_latents, 2, c, h, w) float16 whose means a network can learn: a smooth pattern for each user."""
    generator = torch.Generator().manual_seed(0)
    side, channels = config.latent_size, config.latent_channels
    coarse = torch.randn(config.num_users, channels, 4, 4, generator=generator)
    patterns = F.interpolate(coarse, size=(side, side), mode="bicubic") / SCALE_FACTOR
    own = patterns[torch.arange(num_latents) % config.num_users]
    varied = own * (1 + 0.1 * torch.randn(num_latents, 1, 1, 1, generator=generator))
    return torch.stack([varied, torch.full_like(varied, -3.0)], dim=1).half()


def smooth_cache(config: Config) -> LatentCache:
    """A cache of these posteriors."""
    posteriors = smooth_posteriors(config).numpy()
    return LatentCache(posteriors, torch.arange(len(posteriors)) % config.num_users, SCALE_FACTOR)


def make_trainer(setting: Setting, *, graphs: bool = True, triton: bool = True, amp: bool = True,
                 cache: LatentCache | None = None) -> Trainer:
    """A trainer at step 0 whose initial weights and latents are always the same. Use it before the next one is made.

    graphs, triton: whether it uses CUDA graphs and the Triton kernels. They are switched for the whole process, until
    the next check.
    """
    torch.manual_seed(0)
    switch(graphs, triton)
    cache = cache or smooth_cache(setting.config)
    config = replace(setting.config, amp=amp)
    return build_trainer(config, build_diffusion(config), cache, cache.statistics.scaling(True), setting.device)


def switch(graphs: bool = True, triton: bool = True) -> None:
    """Whether this process uses CUDA graphs and Triton kernels, where there are any."""
    cuda_graph.USE_GRAPHS, rms_norm.USE_KERNELS = graphs, triton


def weights_of(trainer: Trainer, ema: bool = True) -> Tensor:
    """All weights of the trained network, and with `ema` their averages, in one vector on the CPU, float32."""
    state = trainer.state_dict()
    return torch.cat([value.detach().float().cpu().flatten() for part in ("model", "ema")[:1 + ema]
                      for _, value in sorted(state[part].items())])


def difference(found: Sequence[Tensor] | Tensor, expected: Sequence[Tensor] | Tensor) -> float:
    """||found - expected|| / ||expected|| over all tensors together; infinite if a number is not finite."""
    ours, theirs = (torch.cat([part.detach().double().cpu().flatten() for part in
                               ([value] if isinstance(value, Tensor) else value)]) for value in (found, expected))
    result = ((ours - theirs).norm() / theirs.norm()).item()
    return result if ours.isfinite().all() else float("inf")


@contextmanager
def precision(dtype: torch.dtype | None) -> Iterator[None]:
    """Within the block, mixed precision is in this type on all devices; None: all is float32."""
    original = device_of.half_precision
    modules = [module for module in list(sys.modules.values()) if getattr(module, "half_precision", None) is original]
    patches = [patch.object(module, "half_precision", lambda device: dtype) for module in modules]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
