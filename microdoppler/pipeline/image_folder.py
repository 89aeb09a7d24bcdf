"""Folders of made images that can be completed: manifest.json says what each image is made from."""
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Mapping

from accelerate import PartialState
from torch import Tensor

from groundwork.errors import InputError, differences
from groundwork.files import TEMPORARY, check_inside, read_json, write_json
from groundwork.images import save_image
from groundwork.lock import OF_A_LOCK
from groundwork.memory import AdaptiveBatches
from groundwork.progress import Progress

MANIFEST = "manifest.json"
DEFAULTS_OF_OLDER_MANIFESTS = {"noise_level": 1.0, "guidance_interval": [0.0, 1.0]}
Entry = dict[str, Any]      # what the manifest says of an image: all that it is made from


def image_name(class_: str, kind: str, index: int) -> str:
    """Relative path in the style of the data set: ID_3/ID3_synthetic_Doppler1.png for the kind "synthetic"; for another
    folder name <folder>/<folder>_synthetic_Doppler1.png."""
    return f"{class_}/{re.sub('^ID_', 'ID', class_)}_{kind}_Doppler{index}.png"


def open_manifest(output_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of output_dir as it is there, or a new one with these settings.

    Raises InputError when the images there were made with other settings, or when the folder holds something else.
    """
    path = output_dir / MANIFEST
    if not path.exists():
        if output_dir.is_dir() and any(
                path.name not in OF_A_LOCK and not TEMPORARY.fullmatch(path.name) for path in output_dir.iterdir()):
            raise InputError(f"{output_dir} is not empty and has no {MANIFEST}; choose another --output_dir")
        return {**settings, "images": {}}
    manifest = read_json(path)
    if not (isinstance(manifest, dict) and isinstance(manifest.get("images"), dict)):
        raise InputError(f"{path} is no manifest of ours; choose another --output_dir")
    check_inside(manifest["images"], path)
    changed = differences({"forced": None, **DEFAULTS_OF_OLDER_MANIFESTS, **manifest}, {"forced": None, **settings})
    if changed:
        raise InputError(f"{output_dir} holds images made with {changed}; choose another --output_dir")
    return manifest


def complete(folder: Path, manifest: dict[str, Any], wanted: dict[str, Entry],
             make: Callable[[list[Entry]], Tensor], *, batch_size: int, label: str, processes: PartialState) -> str:
    """Make those of the wanted images that the folder lacks; returns in words how many these were.

    manifest: as `open_manifest` returns it; the main process writes it, with the wanted images, before any is made, so
    that every image there is described. wanted: {path relative to folder: entry}; make: (n entries) → images
    (n, h, w, 3 or 1) uint8; label: of the progress bar; processes: they share out the missing images.
    """
    missing = [name for name in wanted if not (folder / name).exists()]
    manifest["images"] |= wanted
    processes.wait_for_everyone()       # until all processes have looked for missing images; then one may write
    if processes.is_main_process:
        write_json(folder / MANIFEST, manifest)
    processes.wait_for_everyone()       # until the manifest is written, which describes the images
    share = missing[processes.process_index::processes.num_processes]
    with Progress(total=len(share), desc=label, unit="image", hidden=not processes.is_main_process) as bar:
        write_images(folder, {name: wanted[name] for name in share}, make, batch_size, bar)
    processes.wait_for_everyone()
    return f"{len(missing)} images generated, {len(wanted) - len(missing)} were there already: {folder}"


def write_images(folder: Path, wanted: dict[str, Entry], make: Callable[[list[Entry]], Tensor], batch_size: int,
                 bar: Progress) -> None:
    """Make images, and write them. One batch is written while the next is made."""
    names, batches = list(wanted), AdaptiveBatches(batch_size, "image")
    writing: list[Future] = []
    with ThreadPoolExecutor() as writers:
        for start in range(0, len(names), batch_size):
            batch = names[start:start + batch_size]
            images = batches.map(make, [wanted[name] for name in batch])
            wait_for_all(writing)       # so that a full disk is reported now and not at the end
            writing = [writers.submit(save_image, folder / name, image.numpy()) for name, image in zip(batch, images)]
            bar.update(len(batch))
        wait_for_all(writing)


def wait_for_all(writing: list[Future]) -> None:
    """Wait until all files are written. Raises the error of the first one that failed."""
    for future in writing:
        future.result()
