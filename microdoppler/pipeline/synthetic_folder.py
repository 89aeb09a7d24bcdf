"""A folder of synthetic spectrograms, laid out like the real data set: generated, continued, described."""
import re
import shlex
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from matplotlib.figure import Figure
from tqdm import tqdm

from denoising_diffusion_pytorch.trainer import join_processes
from groundwork.device import choose_device, describe_work
from groundwork.errors import InputError, differences, shortened
from groundwork.files import TEMPORARY, check_inside, read_json, write_json
from groundwork.images import load_images, save_image
from groundwork.lock import LOCK, OWNER, sole_writer
from groundwork.memory import AdaptiveBatches
from microdoppler.data.spectrograms import find_images
from microdoppler.figures.film import check_film_path
from microdoppler.figures.legend import Legend
from microdoppler.figures.pictures import image_grid
from microdoppler.figures.report import save_figure
from microdoppler.pipeline.animation import save_animation
from microdoppler.pipeline.generation import ImageGenerator, Sampling, find_checkpoint, image_seed
from train_latent_cfg import PRESETS, Config

MANIFEST = "manifest.json"
DEFAULTS_OF_OLDER_MANIFESTS = {"noise_level": 1.0, "guidance_interval": [0.0, 1.0]}
GRID_COLUMNS = 8
WHAT_IS_CLASSIFIED = ("num_users", "class_folders", "class_names", "data_path", "results_folder",
                      "latents_cache_folder", "images_per_user_train", "split_strategy", "split_fold", "split_guard",
                      "seed")      # constants that the study must share with the training


def choose_users(all_users: bool, user_id: tuple[int, ...], legend: Legend) -> list[int]:
    if all_users == bool(user_id):
        raise InputError("give either --all_users or --user_id with users' numbers")
    unknown = [user for user in user_id if user not in legend.users]
    if unknown:
        described = [f"{user} {folder}" for user, folder in legend.classes.items()]
        raise InputError(f"--user_id {' '.join(map(str, unknown))} is unknown to this checkpoint; "
                         f"its users are 1 … {len(legend.users)}: {shortened(described)}")
    return legend.users if all_users else sorted(set(user_id))


def open_manifest(output_dir: Path, settings: dict) -> dict:
    """The manifest of output_dir, new or gone on with. Raises InputError when the images there were made otherwise."""
    path = output_dir / MANIFEST
    if not path.exists():
        if output_dir.is_dir() and any(
                path.name not in (LOCK, OWNER) and not TEMPORARY.fullmatch(path.name) for path in output_dir.iterdir()):
            raise InputError(f"{output_dir} is not empty and has no {MANIFEST}; choose another --output_dir")
        return {**settings, "images": {}}
    manifest = read_json(path)
    if not (isinstance(manifest, dict) and isinstance(manifest.get("images"), dict)):
        raise InputError(f"{path} is no manifest of ours; choose another --output_dir")
    check_inside(manifest["images"], path)
    changed = differences({"forced": None} | DEFAULTS_OF_OLDER_MANIFESTS | manifest, {"forced": None} | settings)
    if changed:
        raise InputError(f"{output_dir} holds images made with {changed}; choose another --output_dir")
    return manifest


def generate(*, checkpoint: Path = Config.results_folder, all_users: bool = False, samples_per_user: int = 50,
         user_id: tuple[int, ...] = (), num_samples: int = 16, output_dir: Path = Path("synthetic_data/samples"),
         sampling: Sampling = Sampling(), batch_size: int = 64, device: str = "auto", vae_path: Path | None = None,
         latents_cache_folder: Path | None = None, save_grid: bool = False, animate: Path | None = None,
         force: bool = False) -> None:
    """Draw spectrograms from a checkpoint, step 4 of 5. Run again, it makes only what is missing.

    Launched as several processes (accelerate launch), they share the images out among them. Options that default to
    None keep what the checkpoint was trained with.

    Args:
        checkpoint: model-<m>.pt, model.safetensors, or a folder: what export.py wrote there, else its newest milestone
        all_users: draw samples_per_user images of every user
        samples_per_user: images of each user, with --all_users
        user_id: draw num_samples images of these users: the numbers of their folders; of class_folders their places
        num_samples: images of each user, with --user_id
        output_dir: gets a folder of *.png per user, called as in the data set, and manifest.json; opens as
            torchvision's ImageFolder
        batch_size: images drawn at once; changes an image by rounding at most
        device: auto, cpu, cuda or cuda:<n>
        vae_path: weights of the VAE, where they are not at the checkpoint's vae_path
        latents_cache_folder: the encoded training images, for noise_level below 1, likewise
        save_grid: also write <output_dir>_grid.png, a row per user
        animate: write this .webp or .gif and no images: of one user how its first image is denoised, of several a loop
            from each to the next on one noise
        force: draw even through another VAE than the model was trained with; the manifest will say so
    """
    torch_device = choose_device(device)
    processes = join_processes(torch_device)
    checkpoint = find_checkpoint(checkpoint)
    count = samples_per_user if all_users else num_samples
    if animate:
        check_film_path(animate)
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} images per user, batch_size {batch_size}: expected at least 1 of each")
    generator = ImageGenerator.load(checkpoint, torch_device, sampling, vae_path, latents_cache_folder, force)
    users = choose_users(all_users, user_id, generator.legend)
    print(describe_work(torch_device, amp=generator.config.amp, at_once=batch_size, processes=processes.num_processes))
    if animate:
        return save_animation(animate, generator, users, batch_size) if processes.is_main_process else None
    with sole_writer(output_dir) if processes.is_main_process else nullcontext():
        names = draw_all(generator, users, count, output_dir, checkpoint, batch_size, processes)
        if save_grid and processes.is_main_process:
            save_figure(draw_grid(output_dir, names, users, generator), grid_path(output_dir))
    print(f"next: {classify_command(generator.config, output_dir)}")


def classify_command(config: Config, output_dir: Path) -> str:
    """The next step's command line, with what the data and their split differ in from the preset's constants."""
    usual, words = PRESETS.get(config.preset, Config()), ["python", "classify.py"]
    if config.preset != Config.preset:
        words += ["--preset", config.preset]
    for name in WHAT_IS_CLASSIFIED:
        value = getattr(config, name)
        if isinstance(value, bool) and value != getattr(usual, name):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif value != getattr(usual, name):
            words += [f"--{name}", str(value)]
    return shlex.join([*words, "--synthetic", str(output_dir)])


def draw_all(generator: ImageGenerator, users: list[int], count: int, output_dir: Path, checkpoint: Path,
             batch_size: int, processes: PartialState) -> list[str]:
    """Draw what output_dir lacks of `count` images of each user; returns the names of all."""
    settings = Sampling.of(generator.config)
    processes.wait_for_everyone()       # until the main one has locked the folder
    manifest = open_manifest(output_dir, generator.identity | settings) | {"checkpoint": str(checkpoint)}
    print(f"{checkpoint}, step {manifest['step']}: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    wanted = {image_name(generator.legend.classes[user], index): (user, image_seed(settings["seed"], user, index))
              for user in users for index in range(1, count + 1)}
    missing = [name for name in wanted if not (output_dir / name).exists()]
    manifest["images"] |= {name: {"user": user, "seed": seed} for name, (user, seed) in wanted.items()}
    processes.wait_for_everyone()       # until all have looked, before any writes
    if processes.is_main_process:
        write_json(output_dir / MANIFEST, manifest)
    processes.wait_for_everyone()       # no image before the manifest that tells what it is
    own = missing[processes.process_index::processes.num_processes]
    draw_missing(generator, {name: wanted[name] for name in own}, output_dir, batch_size,
                 is_heard=processes.is_main_process)
    processes.wait_for_everyone()
    print(f"{len(missing)} images drawn, {len(wanted) - len(missing)} were there already: {output_dir}")
    return list(wanted)


def image_name(class_: str, index: int) -> str:
    """As real ones are called: ID_3/ID3_synthetic_Doppler1.png; of other folders <folder>/<folder>_synthetic_…"""
    return f"{class_}/{re.sub('^ID_', 'ID', class_)}_synthetic_Doppler{index}.png"


def draw_missing(generator: ImageGenerator, wanted: dict[str, tuple[int, int]], output_dir: Path, batch_size: int,
                 is_heard: bool) -> None:
    """Draw and write {name: (user, seed)}; files of one batch are written while the next one is drawn."""
    names, parts = list(wanted), AdaptiveBatches(batch_size, "image")
    writing: list[Future] = []
    with (ThreadPoolExecutor() as writers,
          tqdm(total=len(names), desc="drawing", unit="image", disable=None if is_heard else True) as bar):
        for start in range(0, len(names), batch_size):
            batch = names[start:start + batch_size]
            images = parts.map(generator.draw, *map(list, zip(*(wanted[name] for name in batch))))
            wait(writing)       # a full disk is heard of now, not at the end
            writing = [writers.submit(save_image, output_dir / name, image.numpy())
                       for name, image in zip(batch, images)]
            bar.update(len(batch))
        wait(writing)


def wait(writing: list[Future]) -> None:
    """For all of them; raises what they raised."""
    for future in writing:
        future.result()


def grid_path(output_dir: Path) -> Path:
    """Beside the folder: an image in it, but in no user's folder, would cost Hugging Face's imagefolder the labels."""
    output_dir = output_dir.resolve()
    return output_dir.with_name(f"{output_dir.name}_grid.png")


def draw_grid(output_dir: Path, names: list[str], users: list[int], generator: ImageGenerator) -> Figure:
    """A row per user; where the checkpoint's data_path is within reach, a real training image stands first."""
    config, legend, rows = generator.config, generator.legend, []
    real = real_images(config.data_path, {user: legend.classes[user] for user in users}, config.image_size)
    for user in users:
        own = [name for name in names if name.startswith(f"{legend.classes[user]}/")][:GRID_COLUMNS]
        rows.append((legend.names[user], [*real.get(user, ()), *load_images(output_dir, own, config.image_size)]))
    return image_grid(rows, ["real", "synthetic"] if real else [], str(output_dir), legend.axes)


def real_images(data_path: Path, classes: dict[int, str], image_size: int) -> dict[int, torch.Tensor]:
    """The first image of each class, (1, 3, s, s) uint8; {} where the data set is not at hand."""
    try:
        return {user: load_images(data_path, names[:1], image_size)
                for user, names in find_images(data_path, classes).items()}
    except (InputError, OSError, KeyError):
        return {}
