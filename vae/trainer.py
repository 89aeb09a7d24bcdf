"""VAETrainer: the steps of vae.train. First they train encoder and decoder, later they sharpen the decoder alone.

The losses of both are in vae/losses.py.
"""
import copy
import math

import torch
from torch import Tensor, nn

from groundwork.device import autocast, grad_scaler
from groundwork.errors import InputError
from groundwork.processes import average_over_processes, init_distributed
from groundwork.seeding import derive_seed, global_seed, seeded
from vae.adversarial import ADVERSARIAL_WEIGHT, NUM_SEEDS, Adversary
from vae.kl_vae import KL_VAE
from vae.losses import autoencoding_loss

WARMUP_SHARE = 0.05         # of all steps
MAX_GRAD_NORM = 1.0
EMA_DECAY = 0.995           # an average over about the last 200 steps
INIT, BATCH, DISCRIMINATOR = 0, 1, 2        # purposes of derived seeds: weights, batches, weights of the discriminator


def learning_rate(step: int, num_steps: int, peak: float) -> float:
    """The learning rate of a step: linear warm-up to `peak`, then half a cosine period down to zero."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def images_in_step(batch_size: int, is_sharpening: bool) -> int:
    """A step that sharpens takes half as many images, since it decodes each of them twice."""
    return max(1, batch_size // 2) if is_sharpening else batch_size


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (batch, channels, height, time), shifted cyclically along the time axis and, with probability 0.5,
    mirrored in time. All images of the batch are changed alike.
    """
    shift, mirror = (int(torch.randint(high, (), generator=generator)) for high in (images.shape[-1], 2))
    images = images.roll(shift, dims=-1)
    return images.flip(-1) if mirror else images


class VAETrainer:
    """The weights, their moving average, the optimisers and the step count: all that a resumed run needs.

    Several processes share the images of each step. All of them draw the randomness of the whole batch, and average
    losses and gradients, so they always have the same weights: those that one process would have, up to rounding.

    adversarial_start: the step from which the decoder is sharpened; None: never, and it is a plain one.
    adversarial_weight: of the adversarial loss.
    finetune: a VAE to begin with, whose encoder is kept; default: random weights that follow from `seed`.
    """

    def __init__(self, ddconfig: dict, device: torch.device, num_steps: int, lr: float, kl_weight: float, seed: int,
                 adversarial_start: int | None = None, adversarial_weight: float = ADVERSARIAL_WEIGHT,
                 finetune: KL_VAE | None = None):
        self.processes = init_distributed(device)
        if finetune is None:
            with global_seed(derive_seed(seed, INIT), torch.device("cpu")):
                self.vae = KL_VAE({**ddconfig, "noise_inputs": adversarial_start is not None}).to(device)
        else:
            self.vae = finetune.with_noise_inputs().to(device)
        self.average = copy.deepcopy(self.vae).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.vae.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4)
        self.start = adversarial_start
        self.adversary = (None if adversarial_start is None else
                          Adversary(self.vae, device, adversarial_weight, derive_seed(seed, DISCRIMINATOR)))
        self.scaler = grad_scaler(device)
        self.device, self.num_steps, self.lr, self.kl_weight, self.seed = device, num_steps, lr, kl_weight, seed
        self.step, self.best_mse = 0, math.inf

    def find_floor(self, images: Tensor) -> None:
        """Take the floor's colour from the training images (n, channels, s, s) uint8, if the decoder is sharpened."""
        if self.adversary:
            for vae in (self.vae, self.average):
                vae.floor.find(images)

    def check_shares(self, batch_size: int, num_images: int) -> None:
        """Raises InputError if the processes cannot share the images of each step evenly."""
        count = self.processes.num_processes
        unit = count if self.start is None else 2 * count
        for is_sharpening in {self.start == 0, self.start is not None}:     # of the first and of the last step
            size = min(images_in_step(batch_size, is_sharpening), num_images)
            if size % count:
                raise InputError(f"--batch_size {batch_size} of {num_images} training images makes steps "
                                 f"{'of sharpening ' if is_sharpening else ''}with {size} of them, which cannot be "
                                 f"shared out evenly among {count} processes; choose a multiple of {unit}, at most "
                                 f"{num_images}, or launch fewer processes")

    @property
    def is_sharpening(self) -> bool:
        """Whether the next step sharpens the decoder."""
        return self.start is not None and self.step >= self.start

    @property
    def has_sharpened(self) -> bool:
        """Whether the decoder has been sharpened already."""
        return self.start is not None and self.step > self.start

    def train_step(self, images: Tensor, batch_size: int) -> float:
        """One step on random images out of (n, c, s, s) uint8. Returns the loss. The step's randomness depends only on
        (seed, step). batch_size: images of all processes together, as for images_in_step.
        """
        generator = seeded(self.seed, BATCH, self.step)
        chosen = torch.randperm(len(images), generator=generator)[:images_in_step(batch_size, self.is_sharpening)]
        batch = augment(images[self._share(chosen)], generator).to(self.device).float() / 255
        lr = learning_rate(self.step, self.num_steps, self.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._choose_trained_layers()
        self.optimizer.zero_grad()
        loss = self._backward(batch, len(chosen), generator)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.vae.parameters(), MAX_GRAD_NORM)
        self.scaler.step(self.optimizer)
        if self.adversary and self.is_sharpening:
            self.adversary.update(lr, self.scaler)
        self.scaler.update()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 9))         # shorter at first, when weights change fast
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.vae.parameters()), 1 - decay)
        return loss.item()

    def _share(self, values: Tensor, dim: int = 0) -> Tensor:
        """This process's part of values for the whole batch."""
        return values.chunk(self.processes.num_processes, dim)[self.processes.process_index]

    def _backward(self, batch: Tensor, num_images: int, generator: torch.Generator) -> Tensor:
        """Compute the scaled gradients of a step; returns the loss, a scalar. Both are means over the whole batch.

        batch: this process's images; num_images: of all processes together.
        """
        size = self.vae.latent_size(batch.shape[-1])
        shape = num_images, self.vae.embed_dim, size, size
        trained = list(self.vae.parameters())
        if self.adversary and self.is_sharpening:
            seeds = self._share(torch.randint(NUM_SEEDS, (2, num_images), generator=generator), dim=1)
            noise = self._share(torch.randn(shape, generator=generator))
            loss = self.adversary.backward(self.vae, batch, noise, seeds, self.scaler)
            trained += self.adversary.discriminator.parameters()
        else:
            noise = self._share(torch.randn(shape, generator=generator))
            with autocast(self.device):
                loss = autoencoding_loss(self.vae, batch, noise, self.kl_weight)
            self.scaler.scale(loss).backward()
            loss = loss.detach()
        average_over_processes([loss, *(weight.grad for weight in trained if weight.grad is not None)])
        return loss

    def _choose_trained_layers(self) -> None:
        """All layers but those for noise, and the decoder alone when it is sharpened. The first step that sharpens goes
        on from the averaged weights, so that the encoder that is kept is the averaged one."""
        if self.step == self.start:
            self.vae.load_state_dict(self.average.state_dict())
        for layer in (self.vae.encoder, self.vae.quant_conv):
            layer.requires_grad_(not self.is_sharpening)
        for level in self.vae.decoder.up:
            if hasattr(level, "noise"):
                level.noise.requires_grad_(self.is_sharpening)

    def state(self) -> dict:
        """Everything that resuming needs, as tensors and plain values."""
        return {"step": self.step, "best_mse": self.best_mse, "model": self.vae.state_dict(),
                "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(), **(self.adversary.state() if self.adversary else {})}

    def load_state(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.step, self.best_mse = state["step"], state["best_mse"]
        self.vae.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.adversary:
            self.adversary.load_state(state)
        if self.scaler.is_enabled() and state["scaler"]:        # empty if it was saved on another kind of device
            self.scaler.load_state_dict(state["scaler"])
