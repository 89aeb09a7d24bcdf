"""Make the split and audit it.

    python -m microdoppler.split --data_path DATA --num_users 31
"""
from pathlib import Path

from groundwork.limits import checks_arguments
from microdoppler.data.audit import audit_split, write_audit
from microdoppler.data.overlap import load_or_find_overlaps
from microdoppler.data.split import SplitSettings, describe, load_or_make_split


@checks_arguments
def main(data_path: Path, *, output: Path = Path("latents_cache/data_split.json"), num_users: int = 31,
         images_per_user_train: int = 50, strategy: str = "contiguous", fold: int = 0, guard: int = 4, seed: int = 42,
         class_folders: bool = False, class_names: Path | None = None) -> None:
    """Make the split on its own, before training a VAE, and say how many of its test images are near-copies.

    Writes split_audit.json and split_audit.png (the most similar pairs) beside it. An existing split is only audited.

    Args:
        data_path: folder with ID_1 … ID_<num_users>, or with a folder per class, see class_folders
        output: where the split is written; latents_cache_folder/data_split.json is where training looks for it
        num_users: users 1 … num_users are used
        images_per_user_train: training images per user
        strategy: contiguous (one run of windows in time) or random (leaks, because windows overlap)
        fold: which third of the recording to train on: 0, 1 or 2
        guard: number of windows on each side of the training run that are in neither set
        seed: random seed of the random strategy
        class_folders: the users are all folders of data_path, whatever their names, in natural order
        class_names: a JSON file {folder: name} with the users' names in figures and tables
    """
    settings = SplitSettings(num_users, images_per_user_train, strategy, fold, guard, seed, class_folders)
    split, warnings = load_or_make_split(output, data_path, settings, class_names)
    audit = audit_split(split, load_or_find_overlaps(data_path, num_users, output.parent, class_folders))
    write_audit(audit, data_path, output.parent)
    print("\n".join([*warnings, describe(split), audit.table().as_text(), audit.line,
                     f"guard needed to keep near-copies of a contiguous split below 1 %: {audit.guard} windows",
                     f"written to {output}, split_audit.json and split_audit.png beside it"]))
