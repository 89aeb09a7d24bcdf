"""The study's classifiers: milliseconds of a training step, with and without augmentation and CUDA graph."""
import time
from itertools import islice
from typing import Any

import torch

from benchmarks.checks.check import Outcome, Setting, switch
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.classifier import train_classifier
from microdoppler.study.kinds import KINDS
from microdoppler.study.networks import plan_network
from microdoppler.study.recipe import Recipe

ARMS = ("real only", "real + classical")


def classifier_step(setting: Setting) -> Outcome:
    """A ResNet18 on random images, as the study trains it."""
    figures = {}
    for arm in ARMS:
        for form in ("eager", "graph") if setting.on_cuda else ("eager",):
            switch(graphs=form == "graph")
            figures[f"{arm}, {form}"] = time_classifier(setting, arm)
    return Outcome(True, ", ".join(f"{arm} {ms:.3g} ms" for arm, ms in figures.items()) + " a step", figures)


def time_classifier(setting: Setting, arm: str) -> float:
    """Milliseconds of a training step, without the first steps."""
    config, steps, warm_up = setting.config, setting.count(100, 2), setting.count(10, 1)
    side, generator = config.classifier_image_size, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4 * config.classifier_batch_size, 3, side, side), generator=generator,
                           dtype=torch.uint8)
    real = ImageSet(images, torch.arange(len(images)) % config.num_users)
    recipe = Recipe(epochs=steps + warm_up, batch_size=config.classifier_batch_size, lr=config.classifier_lr)
    batches = Arm(KINDS[arm], real).batches(recipe, config.num_users, seed=0, device=setting.device)
    times: list[float] = []

    def on_step() -> None:
        if len(times) == warm_up and setting.on_cuda:
            torch.cuda.synchronize(setting.device)
        times.append(time.perf_counter())
    options: dict[str, Any] = {"network": plan_network("resnet18", side), "num_classes": config.num_users,
                               "num_steps": steps + warm_up, "lr": recipe.lr, "seed": 0, "device": setting.device}
    train_classifier(islice(batches, steps + warm_up), on_step=on_step, **options)
    if setting.on_cuda:
        torch.cuda.synchronize(setting.device)
    return 1000 * (time.perf_counter() - times[warm_up]) / (steps - 1)
