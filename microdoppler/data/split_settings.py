"""The settings of a split, which with the images determine it."""
from dataclasses import MISSING, asdict, dataclass, fields

from groundwork.errors import InputError
from groundwork.preparation import Preparation

STRATEGIES = ("contiguous", "random")
FOLDS = (0, 1, 2)
ALL_BUT_TEST = "all_but_test"


@dataclass(frozen=True)
class SplitSettings:
    """The settings that a split of given images depends on. Raises InputError when one is impossible.

    The names of the fields are keys in data_split.json, in runs.csv and in the split's identity.
    """
    num_users: int
    # Images to train on, with the validation part: a number, a share of each user's images below 1, or all_but_test
    images_per_user_train: int | float | str
    strategy: str
    fold: int           # contiguous only: which third of the recordings to train on, 0, 1 or 2
    guard: int          # contiguous only: windows on each side of a run inside a recording that are in neither set
    seed: int           # random only
    class_folders: bool = False     # every folder is a user, whatever its name, not only those called ID_<number>
    recording_pattern: str | None = None    # see recordings.py
    test_data: str | None = None    # absolute path of a given test set; then all images in data_path may be trained on
    preparation: Preparation = Preparation()
    validation: float = 0.0     # share of each user's training run that is the validation part, from 0 to below 0.5
    leave_out_users: tuple[int, ...] = ()   # users that nothing is trained on, see other_images.py

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"split_strategy is '{self.strategy}'; expected one of {', '.join(STRATEGIES)}")
        if self.fold not in FOLDS:
            raise InputError(f"split_fold is {self.fold}; expected 0, 1 or 2")
        for name in ("num_users", "fold", "guard", "seed"):
            if type(getattr(self, name)) is not int:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected a whole number")
        if self.num_users < 1:
            raise InputError(f"num_users is {self.num_users}; expected at least 1")
        size = self.images_per_user_train
        if not (type(size) is int and size >= 1 or type(size) is float and 0 < size < 1 or size == ALL_BUT_TEST):
            raise InputError(f"images_per_user_train is {size}; expected a number, a share between 0 and 1, or "
                             f"{ALL_BUT_TEST}")
        if self.guard < 0:
            raise InputError(f"split_guard is {self.guard}; expected 0 or more")
        if not (type(self.validation) in (int, float) and 0 <= self.validation < 0.5):
            raise InputError(f"split_validation is {self.validation}; expected from 0 to below 0.5")
        if not 0 <= self.seed <= 2_000_000_000:
            raise InputError(f"seed is {self.seed}; expected 0 … 2 000 000 000")

    def used(self) -> dict:
        """The settings that the strategy uses. Two splits of the same images are equal when these are.

        Those from class_folders on are left out if they are as by default, since older splits do not have them. Of a
        given test set, only that there is one: its folder may be moved, and is private where weights are shared.
        """
        unused = {"contiguous": ("seed",), "random": ("fold", "guard")}[self.strategy]
        defaults = {item.name: item.default for item in fields(self) if item.default is not MISSING}
        plain = self.to_json() | ({} if self.test_data is None else {"test_data": "given"})
        return {name: value for name, value in plain.items()
                if name not in unused and (name not in defaults or getattr(self, name) != defaults[name])}

    def to_json(self) -> dict:
        """The settings as JSON's types."""
        return {**asdict(self), "preparation": self.preparation.to_json(),
                "leave_out_users": list(self.leave_out_users)}
