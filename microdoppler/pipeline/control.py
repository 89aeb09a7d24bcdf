"""The control of a synthetic set, written beside it by generate.py; see microdoppler/data/control_sets.py."""
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Sequence

import torch
from accelerate import PartialState

from groundwork.errors import InputError, differences
from groundwork.files import atomic_path, write_json
from groundwork.lock import sole_writer
from groundwork.memory import AdaptiveBatches
from groundwork.seeding import derive_seed, seeded
from microdoppler.data.control_sets import (CUT, SUFFIX, TEST, TRAINING, VALIDATION, control_folder, cut_entry,
                                            cut_from, draw_cuts, read_control)
from microdoppler.data.split import in_test_data, relative_to_test_data
from microdoppler.data.split_file import SPLIT_FILE, SplitOptions, load_split, open_split
from microdoppler.data.stitching import Cut, load_cuts
from microdoppler.pipeline.assembly import Data, training_cuts
from microdoppler.pipeline.generation import ImageGenerator
from microdoppler.pipeline.image_folder import MANIFEST, Entry, complete, image_name, open_manifest
from microdoppler.study.arms import ImageSet
from microdoppler.study.copies import CopyDetector
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE

FILE_NAMES = {CUT: "control", TRAINING: "training", VALIDATION: "validation", TEST: "test"}      # of images, by kind
KNOWN_COPIES = 50       # of each user, with which the bar of milestones is calibrated
SHARED_CONSTANTS = ("cuts_per_hop", "doppler_shift", "image_size", "seed")     # of Config, on which a control depends


@dataclass(frozen=True, eq=False)
class Control:
    """A control that is to be written to `folder`. manifest: as `open_manifest` returns it; config: as the generator
    was trained; data: what it was trained on."""
    folder: Path
    manifest: dict[str, Any]
    config: Config
    data: Data

    @staticmethod
    def of(generator: ImageGenerator, synthetic_folder: Path) -> "Control | None":
        """The control of a synthetic set; None, with a line that says so, where the generator's training images are not
        at hand. Raises InputError when the control's folder holds something else."""
        config = replace(generator.config, seed=generator.own_sampling["seed"])     # not one for sampling only
        try:
            data = training_data(config, generator.identity["split"])
        except (InputError, OSError) as error:
            print(f"no control set: {error}. Without it classify.py cannot compare the images with the windows that "
                  "the generator was trained on, and near-copies cannot be told")
            return None
        settings = {name: generator.identity[name] for name in ("vae", "split")} | {
            name: getattr(config, name) for name in SHARED_CONSTANTS}
        folder = control_folder(synthetic_folder)
        return Control(folder, open_manifest(folder, settings), config, data)

    def write(self, generator: ImageGenerator, count: int, processes: PartialState) -> None:
        """Write those images that the folder lacks; count: cuts of each user."""
        wanted = control_entries(self.config, self.data, count)
        with sole_writer(self.folder) if processes.is_main_process else nullcontext():
            if processes.is_main_process:
                self._prepare(wanted)
            processes.wait_for_everyone()       # until the main process has prepared the folder
            print("control set: " + complete(
                self.folder, self.manifest, wanted,
                lambda entries: through_vae(generator.vae, self.config, self.data, entries, generator.diffusion.device),
                batch_size=self.config.vae_batch_size, label="through the VAE", processes=processes))

    def _prepare(self, wanted: dict[str, Entry]) -> None:
        """Remove images of other windows than they should be of, as when the test images have changed; and copy those
        that a control beside it has. The sets of all checkpoints of a training have the same control."""
        images = self.manifest["images"]
        for name, entry in list(images.items()):
            if entry != wanted.get(name, entry if entry["kind"] == CUT else None):
                (self.folder / name).unlink(missing_ok=True)
                del images[name]
        write_json(self.folder / MANIFEST, {**self.manifest, "images": images | wanted})
        settings = {name: value for name, value in self.manifest.items() if name != "images"}
        for folder in sorted(self.folder.parent.glob(f"*{SUFFIX}")):
            other = read_control(folder)
            if other and folder != self.folder and not differences(other, settings):
                for name in (name for name, entry in wanted.items() if other["images"].get(name) == entry):
                    if (folder / name).is_file() and not (self.folder / name).exists():
                        with atomic_path(self.folder / name) as temporary:
                            shutil.copyfile(folder / name, temporary)


def control_entries(config: Config, data: Data, count: int) -> dict[str, Entry]:
    """{path of an image: what it is made from}: `count` cuts of each user, and all windows of the split."""
    cuts, labels = training_cuts(config, data)
    split = data.split
    entries: dict[str, Entry] = {}
    for user, label in split.labels.items():
        own = [cuts[i] for i in (labels == label).nonzero()[:, 0].tolist()]
        chosen = draw_cuts(own, count, config.doppler_shift, derive_seed(config.seed, user))
        test = [relative_to_test_data(path, split.settings.test_data) for path in split.test_images[user]]
        windows_of = {CUT: chosen, **{kind: [Cut(path) for path in paths] for kind, paths in (
            (TRAINING, split.train_images[user]), (VALIDATION, split.validation_images[user]), (TEST, test))}}
        entries |= {image_name(split.folders[user], FILE_NAMES[kind], index):
                    {"user": user, "kind": kind, **cut_entry(cut), "seed": derive_seed(config.seed, user, index)}
                    for kind, windows in windows_of.items() for index, cut in enumerate(windows, start=1)}
    return entries


@torch.inference_mode()
def through_vae(vae: KL_VAE, config: Config, data: Data, entries: Sequence[Entry], device: torch.device
                ) -> torch.Tensor:
    """What the VAE gives back of the windows of these entries: (n, h, w, 3 or 1) uint8 on the CPU.

    They are decoded from a sample of their posterior, as that is what the diffusion model is trained on. Only training
    windows are decoded from its mean: images are compared with them, and noise on both sides would hide some copies.
    """
    test_data = data.split.settings.test_data
    cuts = [Cut(in_test_data(entry["path"], test_data)) if entry["kind"] == TEST and test_data is not None
            else cut_from(entry) for entry in entries]
    images = load_cuts(data.path, cuts, config.image_size, vae.channels, data.split.preparation)
    posterior = vae.encode(images.to(device).float() / 255)
    noise = torch.stack([torch.randn(posterior.mean.shape[1:], generator=seeded(entry["seed"])) for entry in entries])
    has_noise = torch.tensor([entry["kind"] != TRAINING for entry in entries])[:, None, None, None]
    latents = vae.scale_factor * (posterior.mean + posterior.std * (noise * has_noise).to(device))
    # Images of two kinds, and synthetic ones, have the same seeds. The same speckle would make them more similar.
    speckle = [derive_seed(entry["seed"], list(FILE_NAMES).index(entry["kind"])) for entry in entries]
    decoded = vae.decode_latents(latents, speckle)
    return (decoded * 255).round().byte().permute(0, 2, 3, 1).cpu()


def open_copy_detector(config: Config, data: Data, vae: KL_VAE, labels: Sequence[int], device: torch.device
                       ) -> CopyDetector:
    """The copy detector for images of some users, given by their labels. Their windows go through the VAE here; those
    that are held out are the validation windows."""
    entries = [entry for entry in control_entries(config, data, KNOWN_COPIES).values()
               if data.split.labels[entry["user"]] in labels and entry["kind"] != TEST]
    decoded = AdaptiveBatches(config.vae_batch_size, "image", "training windows through the VAE").map(
        lambda part: through_vae(vae, config, data, part, device), entries).permute(0, 3, 1, 2)
    users = torch.tensor([data.split.labels[entry["user"]] for entry in entries])

    def of_kind(kind: str) -> ImageSet:
        chosen = torch.tensor([entry["kind"] == kind for entry in entries])
        return ImageSet(decoded[chosen], users[chosen])
    return CopyDetector.calibrated(*map(of_kind, (TRAINING, CUT, VALIDATION, VALIDATION)))


def training_data(config: Config, trained_on: dict[str, Any]) -> Data:
    """The data set of a Config, with the split whose identity is `trained_on`.

    Raises InputError when it is not at hand, or has changed.
    """
    path = config.latents_cache_folder / SPLIT_FILE
    if load_split(path).identity() != trained_on:
        raise InputError(f"{path} is another split than the checkpoint was trained on")
    opened = open_split(path, config.data_path, SplitOptions(test_data=config.test_data))
    return Data(config.data_path, opened.split, opened.overlaps)
