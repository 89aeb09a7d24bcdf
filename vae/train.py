"""Train a KL_VAE on images:  python -m vae.train --data_path … --split latents_cache/data_split.json --output …

First encoder and decoder are trained, then the decoder is sharpened (vae/losses.py).

The KL term alone determines the scale of the latents, whatever kl_weight is. If mean and std of the posterior grow by
the same factor, x̂ can stay as it is, and KL is smallest when mean² + std² averages 1. So the std of unscaled latents
drifts towards 1, and that of scaled ones towards scale_factor. Short runs stop above it (0.27 after 800 steps).
kl_weight determines how much noise the posterior has, and thus how smooth the latent space is for diffusion.

A few hundred images are soon overfitted. So each batch is shifted cyclically along the time axis, and half of the
batches are mirrored in time. On 336 simulated images (64 px, 800 steps) this closed the gap between training and test
images (21.2 and 19.4 dB became 19.9 and 19.8 dB). Without it, the validation PSNR fell from step 500 on.
"""
import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from groundwork.command_line import run
from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError, differences
from groundwork.files import check_inside, digest_tensors, load_tensors, read_json, save_tensors
from groundwork.images import load_images, natural_order, save_image
from groundwork.limits import checks_arguments
from groundwork.preparation import Preparation
from groundwork.processes import init_distributed
from groundwork.progress import Progress
from groundwork.threads import AdaptiveThreads
from vae.adversarial import ADVERSARIAL_WEIGHT
from vae.kl_vae import DDCONFIG, KL_VAE
from vae.quality import measure_quality
from vae.trainer import VAETrainer

VALIDATION_SHARE = 0.1      # of each user's training windows, the last ones in time
NUM_SHOWN = 8               # images in the picture of reconstructions
KL_WEIGHT = 0.001
# The network's options, and their entries in ddconfig
NETWORK = {"ch": "ch", "ch_mult": "ch_mult", "num_res_blocks": "num_res_blocks", "latent_channels": "z_channels",
           "channels": "in_channels"}
# Of the options that --finetune_decoder takes from its VAE
DEFAULTS = {"image_size": 256, **{option: DDCONFIG[entry] for option, entry in NETWORK.items()}}
# Settings of runs that began when there was no sharpening
WITHOUT_SHARPENING = {"adversarial_start": None, "adversarial_weight": ADVERSARIAL_WEIGHT, "finetune_decoder": None}


@dataclass(frozen=True)
class TrainingData:
    """What a split says about training. training, validation: paths relative to the data folder; preparation: how image
    files become square arrays; digest: of the paths of all its training images, as in the split's identity."""
    training: list[str]
    validation: list[str]
    preparation: Preparation
    digest: str


def read_split(split: str | Path) -> TrainingData:
    """Read which images to train on from a split, and those of its validation part. Its test images are not used.

    If the split has no validation part, the last VALIDATION_SHARE of each user's training windows are for validation.
    The windows before them are left out, as many as the split's guard. Raises InputError if there is no split, or if a
    user has too few windows.
    """
    if not Path(split).is_file():
        raise InputError(f"--split {split} does not exist; make it with python -m microdoppler.split --data_path …")
    content = read_json(split)
    try:
        guard = int(content["guard"])
        preparation = Preparation.from_json(content["preparation"]) if "preparation" in content else Preparation()
        users = {user: _in_time_order(entry) for user, entry in content["users"].items()}
        kept = [name for entry in content["users"].values() for name in entry.get("validation_images", ())]
    except (TypeError, KeyError, AttributeError, ValueError):
        raise InputError(f"--split {split} is no split: expected users, each with train_images; "
                         "make it with python -m microdoppler.split") from None
    paths = "\n".join(name for entry in content["users"].values() for name in entry["train_images"])
    digest = hashlib.sha256(paths.encode()).hexdigest()[:16]
    check_inside([*kept, *(name for names in users.values() for name in names)], split)
    if kept:
        return TrainingData([name for names in users.values() for name in names], kept, preparation, digest)
    training: list[str] = []
    validation: list[str] = []
    for user, names in users.items():
        held_out = max(1, round(VALIDATION_SHARE * len(names)))
        if len(names) <= held_out + guard:
            raise InputError(f"user {user} has {len(names)} training images in {split}; "
                             f"expected at least {held_out + guard + 1} to hold some out for validation: make a split "
                             "with more --images_per_user_train")
        training += names[:-held_out - guard]
        validation += names[-held_out:]
    return TrainingData(training, validation, preparation, digest)


def _in_time_order(user: dict) -> list[str]:
    """The training images of a user in the split. A random split lists them in another order than its recordings."""
    recorded = [image for recording in user.get("recordings", ()) for image in recording["images"]]
    place = {image: number for number, image in enumerate(recorded or sorted(user["train_images"], key=natural_order))}
    return sorted(user["train_images"], key=place.__getitem__)


def reconstruction_picture(images: Tensor, reconstructions: Tensor) -> np.ndarray:
    """Up to NUM_SHOWN images, evenly spread, in a row above their reconstructions. Takes (n, c, s, s) uint8 each, and
    returns (2 s, NUM_SHOWN * s, c) uint8.
    """
    chosen = torch.linspace(0, len(images) - 1, min(NUM_SHOWN, len(images))).round().long()
    rows = [torch.cat(list(part[chosen]), dim=2) for part in (images, reconstructions)]
    return torch.cat(rows, dim=1).permute(1, 2, 0).numpy()


def open_state(state_path: Path, output: Path, settings: dict, resume: bool) -> dict | None:
    """The state of an interrupted run; None for a new run.

    Raises InputError if there are files of a run and `resume` is False, or if that run had other settings.
    """
    found = [path for path in (output, state_path) if path.exists()]
    if found and not resume:
        raise InputError(f"{found[0]} exists; go on with --resume, choose another --output, or delete it")
    if not state_path.exists():
        if found:
            raise InputError(f"{output} exists but {state_path} does not, so it cannot be resumed; "
                             "choose another --output, or delete it")
        return None
    state = load_tensors(state_path)
    if not (isinstance(state, dict) and isinstance(state.get("settings"), dict)
            and isinstance(state["settings"].get("ddconfig"), dict)):
        raise InputError(f"{state_path} is no state of a VAE's training; delete it and {output} to start anew")
    changed = differences(_options(state["settings"]), _options(settings))
    if changed:
        raise InputError(f"{state_path} was trained with {changed}; resume with the same settings, or choose another "
                         "--output")
    return state


def _options(settings: dict) -> dict:
    """The settings of a run by the names of the options that give them."""
    network = _network(DDCONFIG | settings["ddconfig"])     # older states store fewer entries
    images = {"data_path and --split, of digest": str(settings.get("images"))[:12]}
    others = {name: value for name, value in (WITHOUT_SHARPENING | settings).items()
              if name not in ("ddconfig", "images")}
    return {f"--{name}": value for name, value in {**network, **images, **others}.items()}


def _network(ddconfig: dict) -> dict:
    """A network's shape by the names of the options that give it."""
    return {option: ddconfig[entry] for option, entry in NETWORK.items()} | {"ch_mult": tuple(ddconfig["ch_mult"])}


def check_tuned(path: Path, vae: KL_VAE, given: dict, kl_weight: float | None) -> None:
    """Raises InputError if an option of network or images is not as in this VAE, whose decoder is made sharp, or if a
    weight is given for the KL term, which sharpening does not have. given: by name, as in DEFAULTS."""
    own = {"image_size": vae.image_size or given.get("image_size"), **_network(vae.ddconfig)}   # None: unknown
    if changed := differences(*({f"--{name}": values[name] for name in given} for values in (own, given))):
        raise InputError(f"{path} was trained with {changed}; leave these options out: --finetune_decoder takes them "
                         "from its VAE")
    if kl_weight is not None:
        raise InputError(f"--kl_weight is {kl_weight}, but --finetune_decoder keeps the encoder, so there is no KL "
                         "term; leave it out")


def save_if_best(trainer: VAETrainer, validation_images: Tensor, output: Path, notes: dict) -> None:
    """Validate the averaged weights. If no earlier ones were better, or sharpening has changed them, write them and a
    picture of reconstructions. The squared error grows when speckle comes back: it cannot choose among sharp decoders.

    notes: further entries of the checkpoint. Raises InputError if the reconstructions are not finite.
    """
    metrics, reconstructions = measure_quality(trainer.average, validation_images, batch_size=8, seed=trainer.seed)
    if not math.isfinite(metrics["mse"]):
        raise InputError(f"the VAE's reconstructions are not finite at step {trainer.step}; try a lower --lr than "
                         f"{trainer.lr}, and start anew")
    if metrics["mse"] < trainer.best_mse or trainer.has_sharpened:
        trainer.best_mse = metrics["mse"]
        save_tensors(output, {**trainer.average.checkpoint(), "step": trainer.step, "validation": metrics, **notes})
        save_image(output.with_name(f"{output.stem}_reconstruction.png"),
                   reconstruction_picture(validation_images, reconstructions))


def train_vae(train_images: Tensor, validation_images: Tensor, *, output: str | Path, ddconfig: dict,
              num_steps: int, batch_size: int, lr: float, kl_weight: float, seed: int, device: torch.device,
              adversarial_start: int | None = None, adversarial_weight: float = ADVERSARIAL_WEIGHT,
              finetune: KL_VAE | None = None, validate_every: int = 200, resume: bool = False,
              trained_on: str | None = None) -> dict:
    """Train a VAE, and keep the moving average of its weights that reconstructs the validation images best, or the last
    one once the decoder is sharpened. That begins with the best ones. Several processes share each step. The main one
    validates and writes.

    train_images, validation_images: (n, c, s, s) uint8.
    output: where the best weights go; KL_VAE.load reads them. Beside it go <stem>_state.pt, for `resume`, and
        <stem>_reconstruction.png, with validation images above their reconstructions.
    adversarial_start, adversarial_weight, finetune: as for VAETrainer.
    trained_on: digest of the images' paths, stored with the weights.
    validate_every: steps between two validations. Each writes these files; the start writes the state, too.

    Returns the metrics of measure_quality for the best weights on the validation images, their step, and the seconds
    spent. Raises InputError if there are files of a run and `resume` is False, if the settings differ from the resumed
    ones, if the processes cannot share a step, or if the loss or the reconstructions are not finite.
    """
    output = Path(output)
    state_path = output.with_name(f"{output.stem}_state.pt")
    image_size = train_images.shape[-1]
    ddconfig = {key: list(value) if isinstance(value, tuple) else value for key, value in ddconfig.items()}
    settings = {"ddconfig": ddconfig, "image_size": image_size,
                "images": digest_tensors({"train": train_images, "validation": validation_images}),
                "num_steps": num_steps, "batch_size": batch_size, "lr": lr, "kl_weight": kl_weight, "seed": seed,
                "validate_every": validate_every, "adversarial_start": adversarial_start,
                "adversarial_weight": adversarial_weight, "finetune_decoder": finetune.digest() if finetune else None}
    state = open_state(state_path, output, settings, resume)
    notes = {"image_size": image_size, "settings": settings, "trained_on": trained_on}
    trainer = VAETrainer(ddconfig, device, num_steps, lr, kl_weight, seed, adversarial_start, adversarial_weight,
                         finetune)
    trainer.vae.latent_size(image_size)                 # raises InputError for an unsuitable size, before any work
    trainer.check_shares(batch_size, len(train_images))
    processes = trainer.processes
    if state:
        trainer.load_state(state)
    else:       # from now on there is a state to resume from, whenever this process is killed
        trainer.find_floor(train_images)
        processes.wait_for_everyone()       # all of them have seen that there was none
        if processes.is_main_process:
            save_tensors(state_path, {**trainer.state(), "settings": settings})
    start, loss_average = time.monotonic(), None
    with (AdaptiveThreads(device) as threads,
          Progress(total=num_steps, initial=trainer.step, desc="training the VAE", unit="step") as bar):
        while trainer.step < num_steps:
            with threads.step():
                loss = trainer.train_step(train_images, batch_size)
            if not math.isfinite(loss):
                raise InputError(f"the VAE's loss is {loss} at step {trainer.step}; try a lower --lr than {lr}")
            loss_average = loss if loss_average is None else 0.95 * loss_average + 0.05 * loss
            bar.update()
            best = {"best_mse": f"{trainer.best_mse:.4f}"} if math.isfinite(trainer.best_mse) else {}
            bar.set_postfix(loss=f"{loss_average:.4f}", **best, refresh=False)
            if trainer.step % validate_every == 0 or trainer.step in (trainer.start, num_steps):
                if processes.is_main_process:
                    save_if_best(trainer, validation_images, output, notes)
                processes.wait_for_everyone()
                if trainer.step == trainer.start:       # sharpening begins with the best ones, as --finetune_decoder
                    trainer.average.load_state_dict(load_tensors(output)["model_state_dict"])
                if processes.is_main_process:
                    save_tensors(state_path, {**trainer.state(), "settings": settings})
    saved = load_tensors(output)
    return {**saved["validation"], "step": saved["step"], "seconds": time.monotonic() - start}


@checks_arguments
def main(data_path: Path, output: Path = Path("kl_vae_best.pt"), split: Path = Path("latents_cache/data_split.json"),
         image_size: int | None = None, ch: int | None = None, ch_mult: tuple[int, ...] | None = None,
         num_res_blocks: int | None = None, latent_channels: int | None = None,
         channels: Literal[3, 1] | None = None, num_steps: int = 20000, batch_size: int = 4,
         lr: float = 1e-4, kl_weight: float | None = None, adversarial_start: int | None = None,
         adversarial_weight: float = ADVERSARIAL_WEIGHT, finetune_decoder: Path | None = None,
         validate_every: int = 200, seed: int = 42, device: str = "auto", resume: bool = False) -> dict:
    """Train a VAE on the split's training images. The test images are never read.

    Args:
        data_path: folder with one folder of images per user, such as ID_1
        output: file for the weights; the state for --resume and a picture of reconstructions go beside it
        split: made by python -m microdoppler.split
        image_size: height and width in pixels; None: 256
        ch: channels at the images' resolution; None: 128; 16 is enough for 64 px
        ch_mult: channels per level, in multiples of ch; each level but the last halves height and width; None:
            1 2 2 4
        num_res_blocks: ResNet blocks per level of the encoder; the decoder has one more; None: 2
        latent_channels: channels of the latents; more of them keep more detail; None: 4
        channels: channels of the images: 3, or 1 for grey ones; all later steps read this from the VAE; None: 3
        num_steps: optimisation steps
        batch_size: images per step, of all processes together
        lr: highest learning rate of AdamW; narrow networks tolerate more
        kl_weight: a larger one gives a smoother latent space and softer images; None: 0.001
        adversarial_start: step from which the decoder alone is trained, against a discriminator, to make sharp images;
            default: never
        adversarial_weight: of the adversarial loss, against what keeps the images right on average
        finetune_decoder: weights of a VAE whose decoder is made sharp, from the first step on; its encoder is kept, and
            so are latents and diffusion checkpoints; size of images and network are then those of this VAE
        validate_every: steps between two validations, each of which also saves
        seed: random seed for everything
        device: auto, cpu, cuda or cuda:<n>
        resume: continue an interrupted run
    """
    given = {name: value for name, value in {
        "image_size": image_size, "ch": ch, "ch_mult": ch_mult, "num_res_blocks": num_res_blocks,
        "latent_channels": latent_channels, "channels": channels}.items() if value is not None}
    shape = DEFAULTS | given
    for name, value in {**shape, "ch_mult": min(shape["ch_mult"], default=0), "num_steps": num_steps,
                        "batch_size": batch_size, "validate_every": validate_every}.items():
        if value < 1:
            raise InputError(f"--{name} is {value}; expected at least 1")
    if not 0 < lr < math.inf:
        raise InputError(f"--lr is {lr}; expected more than 0")
    if seed < 0:
        raise InputError(f"--seed is {seed}; expected 0 or more")
    if kl_weight is not None and not 0 <= kl_weight < math.inf:
        raise InputError(f"--kl_weight is {kl_weight}; expected 0 or more")
    if not 0 < adversarial_weight < math.inf:
        raise InputError(f"--adversarial_weight is {adversarial_weight}; expected more than 0")
    if adversarial_start is not None and not (finetune_decoder is None and 0 <= adversarial_start < num_steps):
        raise InputError(f"--adversarial_start is {adversarial_start}; expected a step below --num_steps {num_steps}, "
                         "and no --finetune_decoder, which begins with step 0")
    torch_device = choose_device(device)
    count = init_distributed(torch_device).num_processes
    print(describe_work(torch_device, micro_batch=batch_size // count, processes=count))
    data = read_split(split)
    # The paths of a data set with the folders train and test are relative to train
    root = next((folder for folder in (data_path, data_path / "train") if (folder / data.training[0]).is_file()), None)
    if root is None:
        raise InputError(f"data_path {data_path} lacks {data.training[0]}, which {split} lists; give the data that the "
                         "split was made from with --data_path")
    ddconfig = {entry: shape[option] for option, entry in NETWORK.items()} | {"out_ch": shape["channels"]}
    size, finetune = shape["image_size"], None
    if finetune_decoder:
        finetune = KL_VAE.load(finetune_decoder, amp=False)
        check_tuned(finetune_decoder, finetune, given, kl_weight)
        ddconfig, size, adversarial_start = finetune.ddconfig, finetune.image_size or size, 0
    is_known = finetune is None or finetune.trained_on == data.digest   # an encoder may have seen other images
    train_images, validation_images = (
        load_images(root, names, size, "reading images", ddconfig["in_channels"], data.preparation)
        for names in (data.training, data.validation))
    results = train_vae(train_images, validation_images, output=output, num_steps=num_steps, batch_size=batch_size,
                        ddconfig=ddconfig, lr=lr, kl_weight=KL_WEIGHT if kl_weight is None else kl_weight, seed=seed,
                        device=torch_device, adversarial_start=adversarial_start, adversarial_weight=adversarial_weight,
                        finetune=finetune, validate_every=validate_every, resume=resume,
                        trained_on=data.digest if is_known else None)
    print(f"{output}: PSNR {results['psnr_db']:.1f} dB (MSE {results['mse']:.5f}) on {len(data.validation)} validation "
          f"images at step {results['step']}; latents std {results['std']:.3f}, "
          f"{results['min']:.2f} … {results['max']:.2f}; {results['seconds']:.0f} s")
    return results


if __name__ == "__main__":
    run(main, derived={"split": "{latents_cache_folder}/data_split.json", "output": "{vae_path}"},
        shares_work=True)
