"""classify.py --save_models: the best network of each arm, kept as a file."""
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
from torch import nn

from groundwork.errors import InputError
from groundwork.files import read_json, write_json
from groundwork.lock import sole_writer
from microdoppler.study.arms import ImageSet
from microdoppler.study.classifier import predict
from microdoppler.study.networks import Network
from microdoppler.study.trained_classifier import Classes, TrainedClassifier

INDEX_FILE = "models.json"
MAX_WAIT = 600.0        # seconds, for another process that keeps its network


@dataclass(frozen=True, eq=False)
class BestNetworks:
    """The best network of each arm, in folder/<arm>.safetensors, and folder/models.json, which says where each is from.

    The best one has the highest accuracy on the validation images of its fold (among equals, the lowest negative
    log-likelihood, then the lowest seed and fold, so that it does not count which process is done first). Without
    validation images it is that of the first fold and seed: the test images must not choose.
    candidates: {name of an arm: keys of the runs that it is chosen among}.
    """
    folder: Path
    network: Network
    classes: Classes
    candidates: Mapping[str, Sequence[str]]

    def lacks(self, arm: str, key: str) -> bool:
        """Whether a run must be trained for its network, even if its predictions are stored."""
        return key in self.candidates[arm] and key not in self._kept(arm).get("chosen_among", [])

    def offer(self, arm: str, key: str, model: nn.Module, validation: ImageSet | None, facts: dict[str, Any]) -> None:
        """Keep a network if it is the best of its arm so far. facts: plain values that say where it comes from, among
        them fold and seed. Several processes may do so at once."""
        if not self.lacks(arm, key):
            return
        own = {**facts, **(_validate(model, validation) if validation else {})}
        own["chosen_by"] = "validation accuracy" if validation else "first fold and seed"
        file = file_names(list(self.candidates))[arm]
        with sole_writer(self.folder, MAX_WAIT):
            kept = self._kept(arm)
            if not kept or _rank(own) > _rank(kept):
                TrainedClassifier(model, self.network, self.classes, {"arm": arm, **own}).save(self.folder / file)
                kept = {"file": file, **own, "chosen_among": kept.get("chosen_among", [])}
            among = {*kept["chosen_among"], key}
            kept["chosen_among"] = [candidate for candidate in self.candidates[arm] if candidate in among]
            write_json(self.folder / INDEX_FILE, {**self._index(), arm: kept})

    def _kept(self, arm: str) -> dict[str, Any]:
        """What models.json says of an arm; empty if nothing is kept, or what is was chosen among other runs."""
        kept = self._index().get(arm, {})
        is_there = bool(kept) and (self.folder / kept["file"]).exists()
        return kept if is_there and set(kept["chosen_among"]) <= set(self.candidates[arm]) else {}

    def _index(self) -> dict[str, Any]:
        """The content of models.json; empty if it is missing or damaged."""
        try:
            return {arm: kept for arm, kept in read_json(self.folder / INDEX_FILE).items()
                    if {"file", "chosen_among"} <= kept.keys()}
        except (InputError, AttributeError):
            return {}


def file_names(arms: Sequence[str]) -> dict[str, str]:
    """{name of an arm: name of its file}, such as real+synthetic_checkpoint_75.safetensors."""
    plain = [re.sub(r"[^\w.+-]+", "_", arm.replace(" + ", "+")) for arm in arms]
    repeated, seen = Counter(plain), Counter[str]()
    names = {}
    for arm, name in zip(arms, plain):
        seen[name] += 1
        names[arm] = (f"{name}-{seen[name]}" if repeated[name] > 1 else name) + ".safetensors"
    return names


def _validate(model: nn.Module, images: ImageSet) -> dict[str, float]:
    """Accuracy and mean negative log-likelihood on validation images."""
    probabilities, labels = predict(model, images.images).numpy(), images.labels.numpy()
    right = probabilities[np.arange(len(labels)), labels]
    return {"validation_accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
            "validation_nll": float(-np.log(right.clip(min=1e-12)).mean())}


def _rank(facts: dict[str, Any]) -> tuple[float, ...]:
    """The better network has the larger one."""
    return (facts.get("validation_accuracy", 0.0), -facts.get("validation_nll", 0.0), -facts.get("seed", 0),
            -facts.get("fold", 0))
