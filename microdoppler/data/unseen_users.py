"""Users who are left out of a split (leave_out_users): nothing is trained on them, so that they can be tested as unseen
persons."""
from dataclasses import dataclass
from pathlib import Path

from microdoppler.data.overlap import load_or_find_overlaps
from microdoppler.data.recordings import FROM_NAMES, find_recordings, join_continued
from microdoppler.data.spectrograms import drop_broken, find_classes, find_images
from microdoppler.data.split import Split


@dataclass(frozen=True)
class UnseenUsers:
    """The images of users that are left out. images: {user number: paths}; passes: {path: the name of its pass}."""
    images: dict[int, list[str]]
    passes: dict[str, str]


def find_unseen_users(data_path: Path, split: Split, folder: Path) -> UnseenUsers | None:
    """The users that the split leaves out, with their images in data_path; None if it leaves out nobody.

    folder: where their overlaps are stored, which tell the passes. Raises InputError when an image cannot be read.
    """
    settings = split.settings
    if not settings.leave_out_users:
        return None
    everyone = find_classes(data_path, class_folders=settings.class_folders)
    folders = {user: everyone[user] for user in settings.leave_out_users if user in everyone}
    images, _ = drop_broken(data_path, find_images(data_path, folders), split.preparation)
    recordings, source = find_recordings(data_path, images, settings.recording_pattern)
    overlaps = load_or_find_overlaps(data_path, recordings, folder, split.preparation)
    if source == FROM_NAMES:
        recordings = join_continued(recordings, overlaps.overlaps_previous)
        overlaps = load_or_find_overlaps(data_path, recordings, folder, split.preparation)
    paths = [path for own in overlaps.names.values() for path in own]
    return UnseenUsers(overlaps.names, dict(zip(paths, overlaps.pass_names(paths))))
