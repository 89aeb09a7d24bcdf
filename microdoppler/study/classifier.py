"""ResNet18 (He et al. 2016, Table 1) that tells persons apart by their spectrograms: train, predict, features."""
import math
import sys
from functools import partial
from typing import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from groundwork.device import autocast, grad_scaler, in_memory_format
from groundwork.memory import AdaptiveBatches

RECIPE_VERSION = 4      # raise it when classifiers are trained differently, so that those made before are made again
WARMUP_SHARE = 0.1      # of the steps, the learning rate rises linearly; then it falls along a cosine to zero
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1   # Szegedy et al. 2016, section 7


def build_classifier(num_classes: int, seed: int) -> nn.Module:
    """An untrained ResNet18 with weights drawn from `seed`; PyTorch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torchvision.models.resnet18(weights=None, num_classes=num_classes)


def train_classifier(batches: Iterable[tuple[Tensor, Tensor]], *, num_classes: int, num_steps: int, lr: float,
                     seed: int, device: torch.device, on_step: Callable[[], None] | None = None) -> nn.Module:
    """Train a new classifier with AdamW on `num_steps` batches: images (b, 3, size, size) uint8, labels (b,) int64 in
    [0, num_classes).

    Weights follow from `seed` alone, and on the CPU so does the result, bit by bit. Returns the model in evaluation
    mode on `device`.
    """
    model = in_memory_format(build_classifier(num_classes, seed).to(device), torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    scaler, parts = grad_scaler(device), AdaptiveBatches(sys.maxsize, "image")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
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
    """Of the batch's mean loss, in parts where memory is short: only batch normalisation then sees fewer images."""
    def attempt() -> None:
        model.zero_grad(set_to_none=True)
        for part, own_labels in zip(images.split(parts.size), labels.split(parts.size)):
            _backward(model, part, own_labels, scaler, len(part) / len(images))
    parts.until_it_fits(attempt, len(images))


def _backward(model: nn.Module, images: Tensor, labels: Tensor, scaler: torch.amp.GradScaler, share: float) -> None:
    device = next(model.parameters()).device
    with autocast(device):
        logits = model(normalise(images, device))
    loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=LABEL_SMOOTHING)
    scaler.scale(loss * share).backward()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch_size: int = 128) -> Tensor:
    """(n, 3, size, size) uint8 → (n, classes) float32 probabilities, on the CPU."""
    return AdaptiveBatches(batch_size, "image", "classifying").map(partial(_logits, model), images).softmax(dim=1)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    device = next(model.parameters()).device
    with autocast(device):
        return model(normalise(images, device)).float().cpu()


@torch.inference_mode()
def features(model: nn.Module, images: Tensor, batch_size: int = 128) -> Tensor:
    """(n, 3, size, size) uint8 → what the last layer sees, (n, 512) float32, on the CPU."""
    found: list[Tensor] = []

    def pooled(images: Tensor) -> Tensor:
        _logits(model, images)
        return found.pop()
    hook = model.get_submodule("avgpool").register_forward_hook(
        lambda _, __, pooled: found.append(pooled.flatten(1).float().cpu()))
    try:
        return AdaptiveBatches(batch_size, "image", "features").map(pooled, images)
    finally:
        hook.remove()


def index_batches(num_images: int, sizes: Iterable[int], generator: torch.Generator) -> Iterator[Tensor]:
    """Yield an index tensor of each of the sizes: one random permutation of all images after the other."""
    waiting = torch.empty(0, dtype=torch.int64)
    for size in sizes:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(num_images, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def lr_factor(step: int, num_steps: int) -> float:
    """What the learning rate is multiplied by in step 0 … num_steps − 1: a linear rise, then a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup + 1) / (num_steps - warmup + 1))


def normalise(images: Tensor, device: torch.device) -> Tensor:
    """uint8 [0, 255] (n, 3 or 1, h, w) → float32 [−1, 1] (n, 3, h, w) on `device`, channels last; grey is repeated."""
    return images.to(device).expand(-1, 3, -1, -1).to(memory_format=torch.channels_last).float() / 127.5 - 1.0
