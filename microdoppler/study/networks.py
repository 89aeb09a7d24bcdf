"""The networks that can be the classifier: torchvision's classification models, fitted to the size of the images."""
import difflib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torchvision
from accelerate import init_empty_weights
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2

from groundwork.errors import InputError, shortened

DEFAULT_NETWORK = "resnet18"       # He et al. 2016, Table 1
WITH_AUXILIARY_CLASSIFIERS = ("googlenet", "inception_v3")      # only their main output is trained
LEAST_MAP = 2       # pixels each way of the last feature map: a single pixel has lost where things are


@dataclass(frozen=True)
class Network:
    """A classification model of torchvision for images of one size, with random weights. Made by `plan_network`.

    name: in torchvision.models; image_size: height = width in pixels; stem: what is changed at its first layers, since
    it would otherwise shrink the images too much: (name of a layer, its new stride); 0: the layer, a pooling, is left
    out.
    """
    name: str
    image_size: int
    stem: tuple[tuple[str, int], ...] = ()

    def build(self, num_classes: int) -> nn.Module:
        """The untrained network: images (n, 3, image_size, image_size) → logits (n, num_classes)."""
        options: dict[str, Any] = {}
        if self.name.startswith("vit_"):
            options["image_size"] = self.image_size
        elif self.name.startswith("maxvit_"):
            options["input_size"] = (self.image_size, self.image_size)
        elif self.name in WITH_AUXILIARY_CLASSIFIERS:
            options |= {"aux_logits": False, "init_weights": True}
        model = torchvision.models.get_model(self.name, weights=None, num_classes=num_classes, **options)
        for layer, stride in self.stem:
            _change(model, layer, stride)
        return model

    def __str__(self) -> str:
        changes = ", ".join(f"{layer} with stride {stride}" if stride else f"without {layer}"
                            for layer, stride in self.stem)
        return self.name + (f" (stem adapted to {self.image_size} px: {changes})" if changes else "")


def check_network(name: str) -> None:
    """Raises InputError when torchvision has no classification model of this name."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=5, cutoff=0.5) or names
        raise InputError(f"classifier is {name}; expected one of torchvision's classification models, such as "
                         f"{shortened(near)}")


@lru_cache
def plan_network(name: str, image_size: int) -> Network:
    """The network of this name for images of image_size pixels, its stem adapted where they are too small for it.

    A network fits when one image can be trained on (batch normalisation needs more than one value per channel) and the
    last feature map has at least LEAST_MAP pixels each way. Until it fits, the stride of the first convolution is
    halved; then the first pooling is left out. It is tried on PyTorch's meta
    device, where layers know their shapes but compute nothing.

    Raises InputError when torchvision has no classification model of this name, or it cannot take images of this size.
    """
    check_network(name)
    multiple = _size_multiple(name)
    if image_size % multiple:
        below = image_size // multiple * multiple
        sizes = [str(size) for size in (below, below + multiple) if size]
        raise InputError(f"classifier is {name}, which takes images whose size is a multiple of {multiple} px, but "
                         f"classifier_image_size is {image_size}; set it to {' or '.join(sizes)}, or choose another "
                         "classifier")
    with torch.random.fork_rng(devices=[]), init_empty_weights():
        model = Network(name, image_size).build(2).to("meta").train()
    stem: dict[str, int] = {}
    while problem := _misfit(model, image_size):
        change = _next_change(model, stem) if multiple == 1 else None
        if change is None:
            raise InputError(f"classifier is {name}, which cannot take images of {image_size} px ({problem}); set "
                             "classifier_image_size to more, or choose another classifier")
        stem |= [change]
        _change(model, *change)
    return Network(name, image_size, tuple(stem.items()))


def output_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """The layer that returns the logits; a 1 x 1 convolution in SqueezeNet, whose logits are then averaged."""
    return [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]


def _size_multiple(name: str) -> int:
    """What the size of the images must be a multiple of: transformers cut their feature maps in equal parts."""
    if name.startswith("vit_"):
        return int(name.rpartition("_")[2])                     # the patches' size, as in vit_b_16
    return 7 * 32 if name.startswith("maxvit_") else 1          # windows of 7 pixels after five halvings


def _change(model: nn.Module, layer: str, stride: int) -> None:
    """Give a layer another stride, or leave it out; see `Network.stem`."""
    if stride:
        setattr(model.get_submodule(layer), "stride", (stride, stride))
    else:
        parent, _, own_name = layer.rpartition(".")
        setattr(model.get_submodule(parent), own_name, nn.Identity())


def _next_change(model: nn.Module, stem: dict[str, int]) -> tuple[str, int] | None:
    """The next (layer, stride) to change at the stem; None if nothing is left. stem: the changes so far."""
    layers = dict(model.named_modules())
    name, first = next((name, layer) for name, layer in layers.items() if isinstance(layer, nn.Conv2d))
    if (stride := int(first.stride[0])) > 1:
        return name, stride // 2
    if 0 in stem.values():      # a pooling is left out already
        return None
    return next(((name, 0) for name, layer in layers.items() if isinstance(layer, nn.MaxPool2d)), None)


def _misfit(model: nn.Module, image_size: int) -> str:
    """Why a network on the meta device cannot be trained on images of this size; "" if it can."""
    sizes: list[tuple[int, ...]] = []

    def note_size(layer: nn.Module, _: Any, output: Tensor) -> None:
        is_channels_last = isinstance(layer, (PatchMerging, PatchMergingV2))
        sizes.append(tuple(output.shape[1:3] if is_channels_last else output.shape[2:4]))
    hooks = [layer.register_forward_hook(note_size) for layer in model.modules()
             if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, PatchMerging, PatchMergingV2))]
    try:
        model(torch.zeros(1, 3, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError) as error:
        return str(error).partition("\n")[0].strip(". ")
    finally:
        for hook in hooks:
            hook.remove()
    return "" if min(sizes[-1]) >= LEAST_MAP else "its last feature map would have a single pixel"
