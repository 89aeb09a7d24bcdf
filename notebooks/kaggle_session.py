"""What notebooks/kaggle.ipynb begins a session with: what is attached, and what an earlier session left."""
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
from groundwork.files import atomic_path
from groundwork.lock import LOCK, OWNER
from microdoppler.data.spectrograms import SUFFIXES, folders_by_class

DEPTH = 6       # folders below the root that are looked into: Kaggle puts three above what was uploaded
LEFT_BEHIND = "data", "kl_vae_best*", "latents_cache", "results", "synthetic_data"      # by a session


@dataclass(frozen=True)
class Attached:
    """What there is to work with."""
    data_path: Path | None      # the data set with the most users
    num_users: int
    vae_path: Path | None
    earlier: Path | None        # the output of an earlier session, of several the one trained longest

    def __str__(self) -> str:
        data = f"{self.data_path}, {self.num_users} users" if self.data_path else "none, so walkers are simulated"
        vae = self.vae_path or "none, so one is trained, unless an earlier session did"
        return f"data set: {data}\nVAE: {vae}\nearlier session: {self.earlier or 'none'}"


def find_attached(root: str | Path) -> Attached:
    """Look for a data set, a VAE and an earlier session's output in `root` and its folders, DEPTH deep at most."""
    folders = list(_folders(Path(root), DEPTH))
    sessions = [folder for folder in folders if _is_session(folder)]
    others = [folder for folder in folders if not any(folder.is_relative_to(session) for session in sessions)]
    data = max(others, key=count_users, default=None)
    num_users = count_users(data) if data else 0
    vaes = sorted(file for folder in others for file in folder.glob("kl_vae*")
                  if file.suffix in (".pt", ".safetensors") and not file.stem.endswith("_state"))
    return Attached(data if num_users else None, num_users, next(iter(vaes), None),
                    max(sessions, key=_newest_milestone, default=None))


def count_users(folder: Path) -> int:
    """How many of ID_1, ID_2, … the folder holds, each with an image; 0 for synthetic sets, which have a manifest."""
    if (folder / "manifest.json").exists() or not any(folder.glob("[Ii][Dd]_*")):
        return 0
    found, count = folders_by_class(folder), 0
    while (own := found.get(f"ID_{count + 1}")) and any(file.suffix.lower() in SUFFIXES for file in own.iterdir()):
        count += 1
    return count


def bring_over(earlier: Path, working: str | Path) -> None:
    """Copy what an earlier session left to where this one writes, but for what is there already."""
    for source in (source for pattern in LEFT_BEHIND for source in sorted(earlier.glob(pattern))):
        target = Path(working) / source.name
        if target.exists():
            continue
        if source.is_file():
            with atomic_path(target) as half:
                shutil.copyfile(source, half)
        else:
            half = target.with_name(f".{target.name}.half")
            shutil.rmtree(half, ignore_errors=True)         # of a copy that was interrupted
            shutil.copytree(source, half, ignore=shutil.ignore_patterns(LOCK, OWNER))
            os.replace(half, target)
        print(f"brought over: {target}")


def show(*pictures: str | Path, width: int = 900) -> None:
    """Pictures in the notebook, at most `width` pixels wide and in 256 colours, as the notebook keeps them."""
    for picture in pictures:
        with PILImage.open(picture) as image:
            small = image.convert("RGB")
        small.thumbnail((width, 10 * width))
        file = BytesIO()
        small.quantize(256).save(file, "PNG", optimize=True)
        display(Image(data=file.getvalue(), alt=Path(picture).name))


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """root and what is below it, in order; no hidden folders, nor those of a data set's users."""
    if not root.is_dir():
        return
    yield root
    if depth:
        for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
            if not re.match(r"\.|ID_[0-9]+$", folder.name, re.IGNORECASE):
                yield from _folders(folder, depth - 1)


def _is_session(folder: Path) -> bool:
    return (folder / "latents_cache" / "data_split.json").exists()


def _newest_milestone(session: Path) -> int:
    return max(list_milestones(session / "results"), default=0)
