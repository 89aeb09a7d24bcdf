"""The split into training and test images. It is made once and stored in data_split.json, which all programs read.

Windows overlap by 75 %, so a random split puts near-copies of training images into the test set. The default strategy
therefore trains on one run of consecutive windows per user. The windows next to it (the guard) are in neither set.
"""
import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from groundwork.errors import InputError, differences, shortened
from groundwork.files import check_inside, read_json, write_json
from microdoppler.data.class_names import default_names, read_names
from microdoppler.data.spectrograms import class_of, drop_broken, find_users

STRATEGIES = ("contiguous", "random")
FOLDS = (0, 1, 2)


@dataclass(frozen=True)
class SplitSettings:
    """The settings that a split of given images depends on. Raises InputError when one is impossible.

    The names of the fields are keys in data_split.json, in runs.csv and in the split's identity.
    """
    num_users: int
    images_per_user_train: int
    strategy: str
    fold: int           # contiguous only: which third of the recording to train on, 0, 1 or 2
    guard: int          # contiguous only: number of windows on each side of the training run that are in neither set
    seed: int           # random only
    class_folders: bool = False     # every folder is a user, whatever its name, not only those called ID_<number>

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"split strategy '{self.strategy}' is unknown; expected one of {', '.join(STRATEGIES)}")
        if self.fold not in FOLDS:
            raise InputError(f"split_fold is {self.fold}; expected 0, 1 or 2")
        for name in ("num_users", "images_per_user_train", "fold", "guard", "seed"):
            if type(getattr(self, name)) is not int:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected a whole number")
        for name in ("num_users", "images_per_user_train"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.guard < 0:
            raise InputError(f"split_guard is {self.guard}; expected 0 or more")
        if not 0 <= self.seed <= 2_000_000_000:     # RandomState takes 32 bits, and _random adds the user's number
            raise InputError(f"seed is {self.seed}; expected 0 … 2 000 000 000")

    def used(self) -> dict:
        """The settings that the strategy uses. Two splits of the same images are equal when these are."""
        unused = {"contiguous": ("seed",), "random": ("fold", "guard")}[self.strategy]
        default = () if self.class_folders else ("class_folders",)     # older splits do not have this setting
        return {name: value for name, value in asdict(self).items() if name not in (*unused, *default)}


@dataclass(frozen=True)
class Split:
    """The images of the training set and of the test set.

    train_images, test_images: {user number: paths relative to data_path}, in time order if the strategy is contiguous;
    names: {user number: name in figures and tables}.
    """
    settings: SplitSettings
    train_images: dict[int, list[str]]
    test_images: dict[int, list[str]]
    names: dict[int, str]

    def identity(self) -> dict:
        """What identifies the training images: the settings used, and a digest of the paths.

        Checkpoints and manifests store it, so that a model can be matched to the split it was trained on.
        """
        paths = "\n".join(path for user in self.users for path in self.train_images[user])
        return {**self.settings.used(), "train_images": hashlib.sha256(paths.encode()).hexdigest()[:16]}

    @property
    def users(self) -> list[int]:
        """The user numbers."""
        return list(self.train_images)

    @property
    def classes(self) -> dict[int, str]:
        """{user number: class}, see `spectrograms.class_of`."""
        return classes_of(self.train_images, self.settings.class_folders)

    def to_json(self) -> dict:
        """The content of data_split.json."""
        users = {str(user): {"label": user - 1, "name": self.names[user], "train_images": self.train_images[user],
                             "test_images": self.test_images[user]} for user in self.users}
        return {**asdict(self.settings), "users": users}

    @staticmethod
    def from_json(value: dict, path: Path) -> "Split":
        """The split from the content of data_split.json.

        Raises InputError, which names `path`, when the content has another form, lists an image twice or outside the
        data set, or its users are not 1 … num_users.
        """
        try:
            users = {int(user): entry for user, entry in value["users"].items()}
            settings = SplitSettings(**{key: item for key, item in value.items() if key != "users"})
            train, test = ({user: list(entry[part]) for user, entry in users.items()}
                           for part in ("train_images", "test_images"))
            classes = classes_of(train, settings.class_folders)
            defaults = default_names(classes, settings.class_folders)
            names = {user: str(entry.get("name", defaults[user])) for user, entry in users.items()}
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is no split of ours ({type(error).__name__}: {error}); delete it, "
                             "and it is made again") from None
        listed = [name for part in (train, test) for names in part.values() for name in names]
        check_inside(listed, path)
        if len(set(listed)) < len(listed):
            twice = next(name for name in listed if listed.count(name) > 1)
            raise InputError(f"{path} lists {twice} twice; an image is in one place, to train or to test")
        if len(users) != settings.num_users or set(users) != set(range(1, len(users) + 1)):
            raise InputError(f"{path} has users {shortened([str(user) for user in users])}; expected 1 … "
                             f"{settings.num_users}; delete it, and it is made again")
        return Split(settings, train, test, names)


def classes_of(images: dict[int, list[str]], class_folders: bool) -> dict[int, str]:
    """{user number: class} of images {user number: paths}, which begin with the name of the class folder."""
    return {user: class_of(names[0].split("/")[0]) if class_folders else f"ID_{user}" for user, names in images.items()}


def split_images(images: dict[int, list[str]], settings: SplitSettings) -> Split:
    """Split images {user number: paths in time order}. Raises InputError that names users with too few images."""
    divide = _contiguous if settings.strategy == "contiguous" else _random
    parts = {user: divide(user, names, settings) for user, names in images.items()}
    classes = classes_of(images, settings.class_folders)
    short = [f"{classes[user]} has {len(images[user])}" for user, (train, test) in parts.items()
             if len(train) < settings.images_per_user_train or not test]
    if short:
        raise InputError(f"too few images: {', '.join(short)}; {settings.images_per_user_train} to train, the guard of "
                         f"{settings.guard} and 1 to test are needed per user: lower images_per_user_train")
    return Split(settings, {user: train for user, (train, _) in parts.items()},
                 {user: test for user, (_, test) in parts.items()},
                 default_names(classes, settings.class_folders))


def _contiguous(user: int, names: list[str], settings: SplitSettings) -> tuple[list[str], list[str]]:
    """(training, test) images of one user. The training run begins at the first, middle or last possible window."""
    start = (len(names) - settings.images_per_user_train) * settings.fold // 2
    stop = start + settings.images_per_user_train
    return names[start:stop], names[:max(0, start - settings.guard)] + names[stop + settings.guard:]


def _random(user: int, names: list[str], settings: SplitSettings) -> tuple[list[str], list[str]]:
    """(training, test) images of one user: names sorted as strings, permuted by RandomState(seed + user).

    This is the split of the experiments that came before this project.
    """
    order = np.random.RandomState(settings.seed + user).permutation(sorted(names)).tolist()
    return order[:settings.images_per_user_train], order[settings.images_per_user_train:]


def load_or_make_split(path: str | Path, data_path: str | Path, settings: SplitSettings,
                       class_names: Path | None = None) -> tuple[Split, list[str]]:
    """Load the split at `path`, or make it from the images in data_path and write it when there is none.

    class_names: a JSON file for `read_names`, from which the split gets its names, and is written again if they change;
    without one the names stay as they are. Returns (split, warnings about images that were left out).

    Raises InputError when the stored split was made with other settings or lists images that are missing, and when a
    split cannot be made of the images.
    """
    path, data_path = Path(path), Path(data_path)
    if not path.exists():
        images, warnings = drop_broken(data_path, find_users(data_path, settings.num_users, settings.class_folders))
        split = _named(split_images(images, settings), class_names)
        write_json(path, split.to_json())
        return split, warnings
    if not data_path.is_dir():
        raise InputError(f"data_path {data_path} is no folder; give the one that {path} was made from with --data_path")
    split = Split.from_json(read_json(path), path)
    default = {"class_folders": False}      # used() leaves it out when it is False
    changed = differences(default | split.settings.used(), default | settings.used())
    if changed:
        raise InputError(f"{path} was made with {changed}; go back to those constants, or choose another "
                         "latents_cache_folder and results_folder for a new split")
    for name in (name for part in (split.train_images, split.test_images) for names in part.values() for name in names):
        if not (data_path / name).is_file():
            raise InputError(f"{path} lists {name}, which is not in data_path {data_path}; "
                             "give the data_path it was made from, or delete the split to make a new one")
    named = _named(split, class_names)
    if named.names != split.names:
        write_json(path, named.to_json())
    return named, []


def _named(split: Split, class_names: Path | None) -> Split:
    """The split with the names from a class-name file; unchanged without one."""
    if class_names is None:
        return split
    defaults = default_names(split.classes, split.settings.class_folders)
    return replace(split, names=read_names(class_names, split.classes, defaults))


def describe(split: Split) -> str:
    """One line to print: numbers of users and images, and the settings."""
    counts = [sum(map(len, part.values())) for part in (split.train_images, split.test_images)]
    return (f"split: {len(split.users)} users, {counts[0]} training and {counts[1]} test images "
            f"({split.settings.strategy}, fold {split.settings.fold}, guard {split.settings.guard})")
