"""Classifiers of spectrograms by person: training, prediction, features."""
import math
import sys
from functools import partial
from typing import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundwork.device import autocast, grad_scaler, in_memory_format
from groundwork.memory import AdaptiveBatches
from groundwork.seeding import global_seed
from microdoppler.study.networks import Network, output_layer

RECIPE_VERSION = 5      # increase it when training changes by more than rounding: stored runs are then not reused
WARMUP_SHARE = 0.1      # share of the steps with a linear warm-up of the learning rate; a cosine decay to zero follows
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1   # Szegedy et al. 2016, section 7


def build_classifier(network: Network, num_classes: int, seed: int) -> nn.Module:
    """An untrained network with random weights that follow from `seed`. PyTorch's global random state is kept."""
    with global_seed(seed, torch.device("cpu")):
        return network.build(num_classes)


def train_classifier(batches: Iterable[tuple[Tensor, Tensor]], *, network: Network, num_classes: int, num_steps: int,
                     lr: float, seed: int, device: torch.device,
                     on_step: Callable[[], None] | None = None) -> nn.Module:
    """Train a new classifier with AdamW on num_steps `batches`, and return it in evaluation mode on `device`.

    batches: images (b, 3 or 1, size, size) uint8 and targets (b, num_classes) float32, the probability of each class;
    lr: the highest learning rate, see `lr_factor`; on_step: called after each step. The initial weights and what
    dropout hides follow from `seed`. On the CPU the result, too, is the same to the bit for the same batches and seed.
    """
    model = in_memory_format(build_classifier(network, num_classes, seed).to(device), torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    scaler, parts = grad_scaler(device), AdaptiveBatches(sys.maxsize, "image")
    with (global_seed(seed, device),
          torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)):
        for step, (images, labels) in enumerate(batches):
            optimizer.param_groups[0]["lr"] = lr * lr_factor(step, num_steps)
            _set_gradients(model, images, labels, scaler, parts)
            scaler.step(optimizer)
            scaler.update()
            if on_step is not None:
                on_step()
    return model.eval()


def _set_gradients(model: nn.Module, images: Tensor, labels: Tensor, scaler: torch.amp.GradScaler,
                   parts: AdaptiveBatches) -> None:
    """Compute the gradients of the batch's mean loss; in smaller parts if the device runs out of memory.

    The parts add up to the same loss. Only batch normalisation differs, since it sees fewer images at a time.
    """
    def attempt() -> None:
        model.zero_grad(set_to_none=True)
        for part, own_labels in zip(images.split(parts.size), labels.split(parts.size)):
            _backward(model, part, own_labels, scaler, len(part) / len(images))
    parts.retry_until_it_fits(attempt, len(images))


def _backward(model: nn.Module, images: Tensor, labels: Tensor, scaler: torch.amp.GradScaler, share: float) -> None:
    """Add the gradients of `share` times the mean loss of these images, scaled by the GradScaler."""
    device = next(model.parameters()).device
    with autocast(device):
        logits = model(normalise(images, device))
    loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=LABEL_SMOOTHING)
    scaler.scale(loss * share).backward()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch_size: int = 128) -> Tensor:
    """Class probabilities: images (n, 3 or 1, size, size) uint8 → (n, classes) float32 on the CPU."""
    return AdaptiveBatches(batch_size, "image", "classifying").map(partial(_logits, model), images).softmax(dim=1)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """(n, 3 or 1, size, size) uint8 → (n, classes) float32 on the CPU."""
    device = next(model.parameters()).device
    with autocast(device):
        return model(normalise(images, device)).float().cpu()


@torch.inference_mode()
def features(model: nn.Module, images: Tensor, batch_size: int = 128) -> Tensor:
    """The input of the output layer: images (n, 3 or 1, size, size) uint8 → (n, features) float32 on the CPU.

    A ResNet18 has 512 features. Where the output layer is a convolution, as in SqueezeNet, its input is averaged over
    the image.
    """
    captured: list[Tensor] = []

    def last_features(images: Tensor) -> Tensor:
        _logits(model, images)
        last = captured.pop()
        return last.flatten(2).mean(dim=2) if last.ndim == 4 else last
    hook = output_layer(model).register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0].float().cpu()))
    try:
        return AdaptiveBatches(batch_size, "image", "features").map(last_features, images)
    finally:
        hook.remove()


def index_batches(num_images: int, sizes: Iterable[int], generator: torch.Generator) -> Iterator[Tensor]:
    """Yield an index tensor (size,) int64 for each of the sizes.

    Together they are one random permutation of all images after another: each index comes once before any comes again.
    """
    queue = torch.empty(0, dtype=torch.int64)
    for size in sizes:
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(num_images, generator=generator)])
        yield queue[:size]
        queue = queue[size:]


def lr_factor(step: int, num_steps: int) -> float:
    """The factor of the learning rate in step 0 … num_steps − 1: linear warm-up to 1, then a cosine towards 0."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup + 1) / (num_steps - warmup + 1))


def normalise(images: Tensor, device: torch.device) -> Tensor:
    """(n, 3 or 1, h, w) uint8 → (n, 3, h, w) float32 in [−1, 1] on `device`, channels last; grey is repeated."""
    return images.to(device).expand(-1, 3, -1, -1).to(memory_format=torch.channels_last).float() / 127.5 - 1.0
