"""Functions for the start of notebooks/kaggle.ipynb: find attached data, and copy the results of an earlier session."""
import os
import re
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Iterator

from IPython.display import Image, display
from PIL import Image as PILImage

from denoising_diffusion_pytorch.checkpoint import list_milestones
from groundwork.errors import InputError
from groundwork.files import atomic_path, read_json
from groundwork.limits import from_plain
from groundwork.lock import LOCK, OWNER
from microdoppler.data.folders import user_number
from microdoppler.data.spectrograms import SUFFIXES, folders_by_class
from train_latent_cfg import Config

MAX_DEPTH = 6       # levels of folders to search below the root; Kaggle puts three of them above an upload
SESSION_OUTPUTS = "data", "kl_vae_best*", "latents_cache", "results", "synthetic_data"      # what a session writes


@dataclass(frozen=True)
class Attached:
    """What was found among the notebook's inputs; None where there is nothing of a kind."""
    data_path: Path | None      # the data set with the most users
    num_users: int              # of this data set; 0 without one
    vae_path: Path | None       # weights of a VAE
    earlier: Path | None        # the output of an earlier session; of several, the one that was trained longest

    def __str__(self) -> str:
        data = f"{self.data_path}, {self.num_users} users" if self.data_path else "none, so walkers are simulated"
        vae = self.vae_path or "none, so one is trained, unless an earlier session did"
        return f"data set: {data}\nVAE: {vae}\nearlier session: {self.earlier or 'none'}"


def find_attached(root: str | Path) -> Attached:
    """Search `root` and its folders, at most MAX_DEPTH levels deep, for a data set, a VAE and an earlier session."""
    folders = list(_folders(Path(root), MAX_DEPTH))
    sessions = [folder for folder in folders if _is_session(folder)]
    others = [folder for folder in folders if not any(folder.is_relative_to(session) for session in sessions)]
    data = max(others, key=count_users, default=None)
    num_users = count_users(data) if data else 0
    vaes = sorted(file for folder in others for file in folder.glob("kl_vae*")
                  if file.suffix in (".pt", ".safetensors") and not file.stem.endswith("_state"))
    return Attached(data if num_users else None, num_users, next(iter(vaes), None),
                    max(sessions, key=_trained_steps, default=None))


def count_users(folder: Path) -> int:
    """The number of users in a data set: how many folders ID_<n> hold images. 0 for a synthetic set, which has a
    manifest.json."""
    if (folder / "manifest.json").exists() or not any(folder.glob("[Ii][Dd]_*")):
        return 0
    return sum(user_number(user.name) is not None and any(file.suffix.lower() in SUFFIXES for file in user.iterdir())
               for user in folders_by_class(folder).values())


def bring_over(earlier: Path, working: str | Path) -> None:
    """Copy the outputs of an earlier session to the folder `working` of this one. Existing files and folders are kept.
    """
    for source in (source for pattern in SESSION_OUTPUTS for source in sorted(earlier.glob(pattern))):
        target = Path(working) / source.name
        if target.exists():
            continue
        if source.is_file():
            with atomic_path(target) as incomplete:
                shutil.copyfile(source, incomplete)
        else:
            incomplete = target.with_name(f".{target.name}.half")
            shutil.rmtree(incomplete, ignore_errors=True)       # left by a copy that was interrupted
            shutil.copytree(source, incomplete, ignore=shutil.ignore_patterns(LOCK, OWNER))
            os.replace(incomplete, target)
        print(f"brought over: {target}")


def show(*pictures: str | Path, width: int = 900) -> None:
    """Show image files in the notebook, at most `width` pixels wide and in 256 colours to keep the notebook small."""
    for picture in pictures:
        with PILImage.open(picture) as image:
            small = image.convert("RGB")
        small.thumbnail((width, 10 * width))
        file = BytesIO()
        small.quantize(256).save(file, "PNG", optimize=True)
        display(Image(data=file.getvalue(), alt=Path(picture).name))


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """`root` and the folders below it, sorted, down to `depth` levels. Hidden folders and the users' folders ID_<n> are
    left out."""
    if not root.is_dir():
        return
    yield root
    if depth:
        for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
            if not re.match(r"\.|ID_[0-9]+$", folder.name, re.IGNORECASE):
                yield from _folders(folder, depth - 1)


def _is_session(folder: Path) -> bool:
    return (folder / "latents_cache" / "data_split.json").exists()


def _trained_steps(session: Path) -> tuple[int, int]:
    """(steps up to the newest milestone, its number); sessions may have had other numbers of steps per milestone.

    Where config.json cannot be read, the number of steps counts as 0.
    """
    newest = max(list_milestones(session / "results"), default=0)
    try:
        config = from_plain(read_json(session / "results" / "config.json"), Config())
    except InputError:
        return 0, newest
    return min(newest * config.save_and_sample_every, config.train_num_steps), newest
