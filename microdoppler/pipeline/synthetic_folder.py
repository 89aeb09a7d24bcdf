"""Generate a folder of synthetic spectrograms that is laid out like the real data set, or complete one."""
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from matplotlib.figure import Figure

from groundwork.command_line import command
from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError, differences, shortened
from groundwork.images import load_images
from groundwork.limits import checks_arguments
from groundwork.lock import sole_writer
from groundwork.preparation import Preparation
from groundwork.processes import init_distributed
from microdoppler.data.spectrograms import find_images
from microdoppler.data.split_file import SplitOptions
from microdoppler.figures.film import check_film_path
from microdoppler.figures.legend import Legend
from microdoppler.figures.pictures import image_grid
from microdoppler.figures.report import save_figure
from microdoppler.pipeline.animation import save_animation
from microdoppler.pipeline.constants import option_words
from microdoppler.pipeline.control import Control
from microdoppler.pipeline.generation import ImageGenerator, Sampling, find_checkpoint, image_seed
from microdoppler.pipeline.image_folder import Entry, complete, image_name, open_manifest
from train_latent_cfg import Config

GRID_COLUMNS = 8
SAMPLES_OF_ALL, SAMPLES_OF_SOME = 50, 16     # images of each user by default, with --all_users and with --user_id
# Constants that classify.py and training must have in common; the split file has those of the split.
SHARED_WITH_CLASSIFY = ("class_names", "data_path", "results_folder", "latents_cache_folder", "seed")


def choose_users(all_users: bool, user_id: tuple[int, ...], legend: Legend) -> list[int]:
    """The users to generate, in rising order. Raises InputError unless exactly one of the options is
    given, and when a user is unknown."""
    if all_users == bool(user_id):
        raise InputError("give either --all_users or --user_id with users' numbers")
    unknown = [user for user in user_id if user not in legend.users]
    if unknown:
        described = [f"{user} {folder}" for user, folder in legend.classes.items()]
        raise InputError(f"--user_id {' '.join(map(str, unknown))} is unknown to this checkpoint; "
                         f"its users are {shortened(described)}")
    return legend.users if all_users else sorted(set(user_id))


@checks_arguments
def generate(*, checkpoint: Path = Config.results_folder, all_users: bool = False,
         samples_per_user: int | None = None, user_id: tuple[int, ...] = (), num_samples: int | None = None,
         output_dir: Path = Path("synthetic_data/samples"),
         sampling: Sampling = Sampling(), batch_size: int = 64, device: str = "auto", vae_path: Path | None = None,
         latents_cache_folder: Path | None = None, save_grid: bool = False, animate: Path | None = None,
         force: bool = False) -> None:
    """Generate spectrograms from a checkpoint, step 4 of 5. A repeated run generates only images that are missing.

    With --all_users it also writes a control set to <output_dir>_control, if the training images are there: windows
    that the generator was trained on, encoded and decoded by its VAE. classify.py and fidelity compare with them.

    Several processes (accelerate launch) share the images among them. Options that default to None keep the constants
    of the checkpoint.

    Args:
        checkpoint: model-<m>.pt, model.safetensors, or a folder: its model.safetensors from export.py, else its newest
            milestone
        all_users: generate samples_per_user images of every user
        samples_per_user: images of each user, with --all_users; default: 50
        user_id: generate num_samples images of each of these users, e.g. 1 4 for ID_1 and ID_4; folders with other
            names are numbered in natural order
        num_samples: images of each user, with --user_id; default: 16
        output_dir: gets a folder of *.png per user, with the names of the data set, and manifest.json; torchvision's
            ImageFolder can read it
        batch_size: images generated at once; another number changes an image by rounding at most
        device: auto, cpu, cuda or cuda:<n>
        vae_path: weights of the VAE; default: vae.safetensors beside model.safetensors, else the checkpoint's vae_path
        latents_cache_folder: the encoded training images, for noise_level below 1; default: the checkpoint's
        save_grid: also write <output_dir>_grid.png with a row per user
        animate: write this .webp or .gif instead of images. It shows for one user how the first image is denoised, and
            for several users a loop from each user to the next with the same noise
        force: generate even with another VAE than the model was trained with; the manifest records it
    """
    torch_device = choose_device(device)
    processes = init_distributed(torch_device)
    checkpoint = find_checkpoint(checkpoint)
    if all_users and num_samples is not None or not all_users and samples_per_user is not None:
        raise InputError("--num_samples is for --user_id, and --samples_per_user for --all_users; give the other one")
    given, usual = (samples_per_user, SAMPLES_OF_ALL) if all_users else (num_samples, SAMPLES_OF_SOME)
    count = usual if given is None else given
    if animate:
        check_film_path(animate)
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} images per user, batch_size {batch_size}: expected at least 1 of each")
    generator = ImageGenerator.load(checkpoint, torch_device, sampling, vae_path, latents_cache_folder, force)
    users = choose_users(all_users, user_id, generator.legend)
    print(describe_work(torch_device, amp=generator.config.amp, micro_batch=batch_size,
                        processes=processes.num_processes))
    if animate:
        return save_animation(animate, generator, users, batch_size) if processes.is_main_process else None
    with sole_writer(output_dir) if processes.is_main_process else nullcontext():
        with processes.main_process_first():        # it may have to look for overlaps, which the others then read
            control = Control.of(generator, output_dir) if all_users else None
        names = generate_all(generator, users, count, output_dir, checkpoint, batch_size, processes)
        if control:
            control.write(generator, count, processes)
        if save_grid and processes.is_main_process:
            save_figure(draw_grid(output_dir, names, users, generator), grid_path(output_dir))
    if users == generator.legend.users:     # classify.py needs images of all
        print(f"next: {classify_command(generator.config, output_dir)}")
        if not generator.config.data_path.is_dir():
            print("DATA is the folder of your real images, which this checkpoint does not name, or which is not here")


def classify_command(config: Config, output_dir: Path) -> str:
    """The command line of step 5 for these images, with the constants of data and split that differ from the preset.
    DATA stands for a data_path that is not here, as after export.py, which removes paths."""
    if not config.data_path.is_dir():
        config = replace(config, data_path=Path("DATA"))
    return command("classify.py", *option_words(config, SHARED_WITH_CLASSIFY), "--synthetic", output_dir)


def generate_all(generator: ImageGenerator, users: list[int], count: int, output_dir: Path, checkpoint: Path,
                 batch_size: int, processes: PartialState) -> list[str]:
    """Generate those of the `count` images of each user that output_dir lacks; returns the names of all of them.

    Each process generates its share of the missing images. The main process writes the manifest before that.
    """
    settings = Sampling.constants_of(generator.config)
    processes.wait_for_everyone()       # until the main process has locked the folder
    manifest = open_manifest(output_dir, generator.identity | settings) | {"checkpoint": str(checkpoint)}
    print(f"{checkpoint}, step {manifest['step']}: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    if changed := differences(generator.own_sampling, settings):
        print(f"other than the checkpoint's own: {changed}")
    wanted = {image_name(generator.legend.classes[user], "synthetic", index):
              entry_of(generator, user, image_seed(settings["seed"], user, index))
              for user in users for index in range(1, count + 1)}
    print(complete(output_dir, manifest, wanted, lambda entries: sample(generator, entries), batch_size=batch_size,
                   label="generating", processes=processes))
    return list(wanted)


def entry_of(generator: ImageGenerator, user: int, seed: int) -> Entry:
    """What the manifest says of an image: user, seed and, if it is a variation of a training window, that window."""
    start = generator.start_of(user, seed)
    return {"user": user, "seed": seed} | ({} if start is None else {"start": start})


def sample(generator: ImageGenerator, entries: list[Entry]) -> torch.Tensor:
    """The images that these entries of the manifest describe: (n, h, w, 3 or 1) uint8."""
    return generator.sample_images([entry["user"] for entry in entries], [entry["seed"] for entry in entries])


def grid_path(output_dir: Path) -> Path:
    """Path of the grid picture, beside output_dir. Inside it, Hugging Face's imagefolder would not find the labels,
    because an image there would lie in no user's folder."""
    output_dir = output_dir.resolve()
    return output_dir.with_name(f"{output_dir.name}_grid.png")


def draw_grid(output_dir: Path, names: list[str], users: list[int], generator: ImageGenerator) -> Figure:
    """A row per user with up to GRID_COLUMNS synthetic images. A real image comes first if data_path exists here."""
    config, legend, rows = generator.config, generator.legend, []
    preparation = SplitOptions(fit=config.fit, crop=config.crop, levels=config.levels).preparation
    real = real_images(config.data_path, {user: legend.classes[user] for user in users}, config.image_size, preparation)
    for user in users:
        shown = [name for name in names if name.startswith(f"{legend.classes[user]}/")][:GRID_COLUMNS]
        rows.append((legend.figure_names[user],
                     [*real.get(user, ()), *load_images(output_dir, shown, config.image_size)]))
    return image_grid(rows, ["real", "synthetic"] if real else [], str(output_dir), legend.axes)


def real_images(data_path: Path, classes: dict[int, str], image_size: int,
                preparation: Preparation) -> dict[int, torch.Tensor]:
    """The first image of each class, {user: (1, 3, s, s) uint8}; {} when the data set cannot be read."""
    try:
        return {user: load_images(data_path, names[:1], image_size, preparation=preparation)
                for user, names in find_images(data_path, classes).items()}
    except (InputError, OSError, KeyError):
        return {}
