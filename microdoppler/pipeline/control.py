"""The control of a synthetic set, written beside it by generate.py; see microdoppler/data/control_sets.py."""
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from groundwork.errors import InputError
from groundwork.lock import sole_writer
from groundwork.seeding import derive_seed, seeded
from microdoppler.data.control_sets import CUT, WINDOW, control_folder, cut_entry, cut_from, draw_cuts
from microdoppler.data.split_file import SPLIT_FILE, SplitOptions, load_split, open_split
from microdoppler.data.stitching import Cut, load_cuts
from microdoppler.pipeline.assembly import Data, training_cuts
from microdoppler.pipeline.generation import ImageGenerator
from microdoppler.pipeline.image_folder import Entry, complete, image_name, open_manifest
from train_latent_cfg import Config

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
        with sole_writer(self.folder) if processes.is_main_process else nullcontext():
            processes.wait_for_everyone()       # until the main process has locked the folder
            print("control set: " + complete(
                self.folder, self.manifest, self.entries(count), lambda entries: self.decoded(entries, generator),
                batch_size=self.config.vae_batch_size, label="through the VAE", processes=processes))

    def entries(self, count: int) -> dict[str, Entry]:
        """{path of an image: what it is made from}: `count` cuts of each user, and all recorded training windows."""
        cuts, labels = training_cuts(self.config, self.data)
        seed, split = self.config.seed, self.data.split
        entries: dict[str, Entry] = {}
        for user, label in split.labels.items():
            own = [cuts[i] for i in (labels == label).nonzero()[:, 0].tolist()]
            chosen = draw_cuts(own, count, self.config.doppler_shift, derive_seed(seed, user))
            windows = [Cut(path) for path in split.train_images[user]]
            entries |= {image_name(split.folders[user], "control", index):
                        {"user": user, "kind": CUT, **cut_entry(cut), "seed": derive_seed(seed, user, index)}
                        for index, cut in enumerate(chosen, start=1)}
            entries |= {image_name(split.folders[user], "training", index):
                        {"user": user, "kind": WINDOW, **cut_entry(window)}
                        for index, window in enumerate(windows, start=1)}
        return entries

    @torch.inference_mode()
    def decoded(self, entries: list[Entry], generator: ImageGenerator) -> torch.Tensor:
        """What the VAE gives back of windows: (n, h, w, 3 or 1) uint8 on the CPU.

        Cuts are decoded from a sample of their posterior, as that is what the diffusion model is trained on; recorded
        windows from its mean, since copies are compared with them, and noise on both sides would hide some.
        """
        vae = generator.vae
        images = load_cuts(self.data.path, [cut_from(entry) for entry in entries], self.config.image_size, vae.channels,
                           self.data.split.preparation)
        posterior = vae.encode(images.to(generator.diffusion.device).float() / 255)
        shape = posterior.mean.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=seeded(entry["seed"])) if entry["kind"] == CUT
                             else torch.zeros(shape) for entry in entries])
        return generator.decode(vae.scale_factor * (posterior.mean + posterior.std * noise.to(posterior.mean.device)))


def training_data(config: Config, trained_on: dict[str, Any]) -> Data:
    """The data set of a Config, with the split whose identity is `trained_on`.

    Raises InputError when it is not at hand, or has changed.
    """
    path = config.latents_cache_folder / SPLIT_FILE
    if load_split(path).identity() != trained_on:
        raise InputError(f"{path} is another split than the checkpoint was trained on")
    opened = open_split(path, config.data_path, SplitOptions(test_data=config.test_data))
    return Data(config.data_path, opened.split, opened.overlaps)
