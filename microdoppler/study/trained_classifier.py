"""A trained classifier as a file: weights with all that is needed to predict, and no code."""
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundwork.device import convolution_format, in_memory_format
from groundwork.errors import InputError, shortened
from groundwork.files import load_safetensors, save_safetensors
from groundwork.preparation import Preparation
from microdoppler.study.classifier import predict
from microdoppler.study.networks import Network

KIND = "classifier"     # tells its files from those of diffusion models and VAEs


@dataclass(frozen=True)
class Classes:
    """What a classifier tells apart, and the images that it does so on.

    folders: of each class, the name of its folder in the data set; names: of each class, as shown in tables; channels:
    3 for RGB or 1 for grey; preparation: how files of the data set become square arrays.
    """
    folders: tuple[str, ...]
    names: tuple[str, ...]
    channels: int = 3
    preparation: Preparation = Preparation()


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier in evaluation mode. facts: plain values that say where it comes from, such as its arm and fold."""
    model: nn.Module
    network: Network
    classes: Classes
    facts: dict[str, Any] = field(default_factory=dict)

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities: images (n, channels, size, size) uint8 → (n, classes) float32 on the CPU."""
        return predict(self.model, images)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose header says everything but the weights."""
        classes = asdict(self.classes) | {"preparation": self.classes.preparation.to_json()}
        save_safetensors(path, self.model.state_dict(), {"kind": KIND, "network": asdict(self.network),
                                                         "classes": classes, "facts": self.facts})

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> "TrainedClassifier":
        """Read a file of `save`. Raises InputError if `path` is none, is damaged, or holds weights that do not fit."""
        tensors, about = load_safetensors(path)
        if about.get("kind") != KIND:
            raise InputError(f"{path} is no classifier; expected a file that classify.py --save_models wrote, as in "
                             "results/classify/models")
        try:
            plain = about["classes"]
            classes = Classes(tuple(plain["folders"]), tuple(plain["names"]), plain["channels"],
                              Preparation.from_json(plain["preparation"]))
            network = Network(**about["network"] | {"stem": tuple(map(tuple, about["network"]["stem"]))})
            model = network.build(len(classes.folders))
            model.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path} cannot be used ({type(error).__name__}: {str(error).splitlines()[0]}); train it "
                             "again with this version and classify.py --save_models") from None
        model = in_memory_format(model.to(device), convolution_format(torch.device(device)))
        return TrainedClassifier(model.eval(), network, classes, about.get("facts", {}))

    def __str__(self) -> str:
        origin = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.facts.items()
                           if name in ("arm", "fold", "seed"))
        return (f"{self.network}, {self.network.image_size} px, {len(self.classes.folders)} users "
                f"({shortened(self.classes.names)})" + (f"; {origin}" if origin else ""))
