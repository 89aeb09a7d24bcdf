"""Images that a study tests on beside those of the split: the same users under another condition (with a bag,
with other clothes), and users who are left out of the split. Nothing is trained on them."""
from dataclasses import dataclass
from pathlib import Path

from groundwork.errors import InputError, shortened
from microdoppler.data.overlap import load_or_find_overlaps
from microdoppler.data.recordings import FROM_NAMES, find_recordings, join_continued
from microdoppler.data.spectrograms import check_same_users, drop_broken, find_classes, find_images
from microdoppler.data.split import Split


@dataclass(frozen=True)
class OtherImages:
    """root: the folder that paths are relative to; images: {user number: paths}; passes: {path: name of its pass}."""
    root: Path
    images: dict[int, list[str]]
    passes: dict[str, str]


def find_condition(root: Path, data_path: Path, split: Split, cache: Path) -> OtherImages:
    """The images of the split's users under another condition, in `root`, which is laid out as data_path is.

    cache: where their overlaps are stored, which tell the passes. Raises InputError when root is no such folder, lacks
    a user, or is the folder that the split was made from: its images may be trained on.
    """
    check_same_users("--conditions", root, split.folders)
    if root.resolve() == data_path.resolve():
        raise InputError(f"--conditions {root} is the data_path, some images of which are trained on; expected a "
                         "folder with other recordings of the same users")
    return _with_passes(root, split.folders, split, cache)


def find_unseen_users(data_path: Path, split: Split, cache: Path) -> OtherImages | None:
    """The users that the split leaves out (leave_out_users), with their images in data_path; None if it leaves out
    nobody.

    cache: where their overlaps are stored, which tell the passes. Raises InputError when an image cannot be read.
    """
    settings = split.settings
    if not settings.leave_out_users:
        return None
    everyone = find_classes(data_path, class_folders=settings.class_folders)
    if missing := [str(user) for user in settings.leave_out_users if user not in everyone]:
        raise InputError(f"data_path {data_path} lacks the users {shortened(missing)}, which the split leaves out; "
                         "give the folder that it was made from")
    return _with_passes(data_path, {user: everyone[user] for user in settings.leave_out_users}, split, cache)


def _with_passes(root: Path, folders: dict[int, str], split: Split, cache: Path) -> OtherImages:
    images, _ = drop_broken(root, find_images(root, folders), split.preparation)
    recordings, source = find_recordings(root, images, split.settings.recording_pattern)
    overlaps = load_or_find_overlaps(root, recordings, cache, split.preparation)
    if source == FROM_NAMES:
        recordings = join_continued(recordings, overlaps.overlaps_previous)
        overlaps = load_or_find_overlaps(root, recordings, cache, split.preparation)
    paths = [path for own in overlaps.names.values() for path in own]
    return OtherImages(root, overlaps.names, dict(zip(paths, overlaps.pass_names(paths))))
