"""Classifiers of spectrograms by person: training, prediction, features."""
import math
import sys
from contextlib import nullcontext
from functools import partial
from typing import Callable, Iterable, Iterator, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundwork.cuda_graph import Graphed, Inputs, set_lr
from groundwork.device import autocast, convolution_format, grad_scaler, in_memory_format, send
from groundwork.memory import AdaptiveBatches
from groundwork.seeding import default_generator, global_seed
from groundwork.threads import AdaptiveThreads
from microdoppler.study.networks import output_layer

RECIPE_VERSION = 5      # increase it when training changes by more than rounding: stored runs are then not reused
WARMUP_SHARE = 0.1      # share of the steps with a linear warm-up of the learning rate; a cosine decay to zero follows
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1   # Szegedy et al. 2016, section 7


class Architecture(Protocol):
    """A kind of network, such as a Network of networks.py."""

    def build(self, num_classes: int, /) -> nn.Module:
        """The untrained network: images (n, 3, h, w) → logits (n, num_classes)."""


def build_classifier(network: Architecture, num_classes: int, seed: int) -> nn.Module:
    """An untrained network with random weights that follow from `seed`. PyTorch's global random state is kept."""
    with global_seed(seed, torch.device("cpu")):
        return network.build(num_classes)


def train_classifier(batches: Iterable[tuple[Tensor, Tensor]], *, network: Architecture, num_classes: int,
                     num_steps: int, lr: float, seed: int, device: torch.device,
                     on_step: Callable[[], None] | None = None, threads: AdaptiveThreads | None = None) -> nn.Module:
    """Train a new classifier with AdamW on num_steps `batches`, and return it in evaluation mode on `device`.

    batches: images (b, 3 or 1, size, size) uint8 and targets (b, num_classes) float32, the probability of each class;
    lr: the highest learning rate, see `lr_factor`; on_step: called after each step; threads: of several trainings
    after one another; default: of this one alone. The initial weights and what dropout hides follow from `seed`. On the
    CPU the result, too, is the same to the bit for the same batches, seed and number of threads; another number of
    threads changes it by rounding. On CUDA all kernels of a step are launched as one graph, and are done at the end.
    """
    untrained = build_classifier(network, num_classes, seed).to(device)
    model = in_memory_format(untrained, convolution_format(device)).train()
    update = Update(model)
    run: Callable[[Inputs], None] = update      # the first step is no graph: it creates the state that captures restore
    with (nullcontext(threads) if threads else AdaptiveThreads(device) as threads, global_seed(seed, device),
          torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)):
        for step, (images, targets) in enumerate(batches):
            # Images that lie on the CPU are waited for: batches sent ahead of the device would fill the CPU's memory
            batch = {"images": images.to(device), "targets": send(targets, device)}
            set_lr(update.optimizer, lr * lr_factor(step, num_steps))
            with threads.step():
                update.parts.retry_until_it_fits(partial(run, batch), len(images))
            if step == 0:
                run = Graphed(update, device, generators=[default_generator(device)], state=update.state)
            if on_step is not None:
                on_step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)      # the time until now is this training's
    model.zero_grad(set_to_none=True)
    return model.eval()


class Update:
    """A step of AdamW on the mean loss of a batch: images (b, 3 or 1, size, size) uint8 and targets (b, num_classes)
    float32, both on the device of the model.

    parts: how many images go through the network together. All the parts of a batch add up to the same loss. Only batch
    normalisation differs, since it sees fewer images at a time.
    """

    def __init__(self, model: nn.Module):
        self.model, self.device = model, next(model.parameters()).device
        self.scaler, self.parts = grad_scaler(self.device), AdaptiveBatches(sys.maxsize, "image")
        is_cuda = self.device.type == "cuda"
        lr = torch.zeros((), device=self.device) if is_cuda else 0.0        # a graph reads it from the device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True,
                                           capturable=is_cuda)

    def __call__(self, batch: Inputs) -> None:
        self.set_gradients(batch["images"], batch["targets"])
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def set_gradients(self, images: Tensor, targets: Tensor) -> None:
        """Compute the gradients of the batch's mean loss, scaled by the GradScaler."""
        self.model.zero_grad(set_to_none=True)
        for part, own_targets in zip(images.split(self.parts.size), targets.split(self.parts.size)):
            with autocast(self.device):
                logits = self.model(normalise(part, self.device))
            loss = F.cross_entropy(logits.float(), own_targets, label_smoothing=LABEL_SMOOTHING)
            self.scaler.scale(loss * (len(part) / len(images))).backward()

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes in place. There are more after the first step than before."""
        of_optimizer = [value for state in self.optimizer.state.values() for value in state.values()]
        of_scaler = [self.scaler._scale, self.scaler._growth_tracker] if self.scaler.is_enabled() else []
        return [tensor.detach() for tensor in (*self.model.parameters(), *self.model.buffers(), *of_optimizer,
                                               *of_scaler)]


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch_size: int = 128) -> Tensor:
    """Class probabilities: images (n, 3 or 1, size, size) uint8 → (n, classes) float32 on the CPU."""
    return AdaptiveBatches(batch_size, "image", "classifying").map(partial(_logits, model), images).cpu().softmax(dim=1)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """(n, 3 or 1, size, size) uint8 → (n, classes) float32 on the device of the model."""
    device = next(model.parameters()).device
    with autocast(device):
        return model(normalise(images, device)).float()


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
    hook = output_layer(model).register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0].float()))
    try:
        return AdaptiveBatches(batch_size, "image", "features").map(last_features, images).cpu()
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
    """(n, 3 or 1, h, w) uint8 → (n, 3, h, w) float32 in [−1, 1] on `device`, as its convolutions like it; grey is
    repeated."""
    return images.to(device).expand(-1, 3, -1, -1).to(memory_format=convolution_format(device)).float() / 127.5 - 1.0
