"""Make the split and audit it.

    python -m microdoppler.split --data_path DATA
"""
from pathlib import Path

from groundwork.limits import (CountOrZero, FourNumbers, Seed, TrainSize, TwoNumbers, UserNumbers, ValidationShare,
                               checks_arguments)
from microdoppler.data.audit import audit_split, write_audit
from microdoppler.data.split import cut_at_recordings, describe
from microdoppler.data.split_file import SPLIT_FILE, SplitOptions, locate_data, open_split


@checks_arguments
def main(data_path: Path, *, output: Path = Path("latents_cache") / SPLIT_FILE, num_users: CountOrZero = 0,
         images_per_user_train: TrainSize | None = None, split_strategy: str | None = None,
         split_fold: int | None = None, split_guard: CountOrZero | None = None,
         split_validation: ValidationShare | None = None, seed: Seed | None = None,
         class_folders: bool = False, class_names: Path | None = None, recording_pattern: str | None = None,
         test_data: Path | None = None, fit: str | None = None, crop: FourNumbers | None = None,
         levels: TwoNumbers | None = None, leave_out_users: UserNumbers | None = None) -> None:
    """Make the split on its own, before training a VAE, and say how many of its test images are near-copies.

    Writes split_audit.json and split_audit.png (the most similar pairs) beside it. An existing split is only audited.
    Later commands read the split; its options need not be given again. Without an option, the data decide.

    Args:
        data_path: folder with a folder per user (ID_1, ID_2, … or other names), or with train and test (or val) that
            hold these
        output: where the split is written; latents_cache_folder/data_split.json is where training looks for it
        num_users: only the first of the users, in rising order; 0: all
        images_per_user_train: images per user to train and validate on: a number, a share below 1, or all_but_test;
            default: a third
        split_strategy: contiguous (recordings stay whole) or random (leaks, because windows overlap)
        split_fold: which third of the recordings to train on: 0, 1 or 2
        split_guard: windows left out on each side of the training run; default: as many as needed
        split_validation: share of these images that constants are chosen on, below 0.5: their last passes; default:
            0.2, or 0 where too few would stay to train on
        seed: random seed of the random strategy; default: 42
        class_folders: the users are all folders of data_path, not only those called ID_<n>
        class_names: a JSON file {folder: name} with the users' names in figures and tables
        recording_pattern: regular expression that finds recording and number in an image's name, if the names' own
            order and the table recordings.csv do not tell
        test_data: folder of a given test set, with the same users
        fit: images that are not square: stretch (default), crop or pad
        crop: left top right bottom of the part of the image files to keep: pixels, or shares of at most 1
        levels: values of the image files that become black and white; default: their whole range
        leave_out_users: numbers of users that nothing is trained on, e.g. 4 9; classify.py then tests how well it tells
            these unseen persons apart
    """
    data_path, test_data = locate_data(data_path, test_data)
    options = SplitOptions(num_users or None, images_per_user_train, split_strategy, split_fold, split_guard,
                           split_validation, seed, class_folders or None, recording_pattern, test_data, fit, crop,
                           levels, leave_out_users)
    opened = open_split(output, data_path, options, class_names)
    audit = audit_split(opened.split, opened.overlaps)
    write_audit(audit, data_path, output.parent)
    print("\n".join([*opened.lines, describe(opened.split), audit.table().as_text(), audit.line,
                     *([] if audit.guard is None or cut_at_recordings(opened.split) else [
                         f"the smallest split_guard without near-copies: {audit.guard} windows"]),
                     f"written to {output}, split_audit.json and split_audit.png beside it"]))
