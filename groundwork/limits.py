"""Types of numbers that have limits, for the fields of a dataclass, and that dataclass to and from JSON, by pydantic.

For type checkers and command lines, a field `num_users: Count = 31` is a plain int. `check_limits` checks the limits;
creating the dataclass does not. The upper limits are far above all values that make sense.

Python code may give text for a path, a list for a tuple, one value for a tuple of one, and NumPy's numbers: see
`as_declared`.
"""
import inspect
from dataclasses import asdict, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Callable, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import AfterValidator, Field, InstanceOf, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from groundwork.errors import InputError

Constants = TypeVar("Constants")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _number(expected: str, **limits: Any) -> Any:
    """Limits of a number, and the words in which an error message says what was expected."""
    return Field(description=expected, strict=True, **limits)


def _within(low: float, high: float, **options: Any) -> Any:
    return _number(f"{low:,} … {high:,}".replace(",", " "), ge=low, le=high, **options)


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if not values[0] <= values[1]:
        raise ValueError("falls")
    return values


def _rising_from_zero(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= values[0] < values[1]:
        raise ValueError("falls, or is negative")
    return values


def _rising_or_zeros(values: tuple[float, float]) -> tuple[float, float]:
    if values != (0, 0) and not -1e4 <= values[0] < values[1] <= 1e4:
        raise ValueError("falls, or is out of range")
    return values


Few = Annotated[int, _within(1, 64)]
Size = Annotated[int, _within(1, 4096)]
Count = Annotated[int, _within(1, 100_000)]
NumSteps = Annotated[int, _within(1, 1_000_000_000)]
CountOrZero = Annotated[int, _within(0, 100_000)]
Seed = Annotated[int, _within(0, 2_000_000_000)]
EvenSize = Annotated[int, _number("an even number in 4 … 4 096 (half sines, half cosines of the time)", ge=4, le=4096,
                                  multiple_of=2)]
BatchSize = Annotated[int, _number("2 … 4 096 (batch normalisation needs two images)", ge=2, le=4096)]
ImageSize = Annotated[int, _within(8, 4096)]
ClassifierSize = Annotated[int, _within(32, 4096)]
Duration = Annotated[float, _within(0, 100_000, allow_inf_nan=False)]
Weight = Annotated[float, _within(0, 1000, allow_inf_nan=False)]
Decibels = Annotated[float, _within(-200, 200, allow_inf_nan=False)]
Share = Annotated[float, _within(0, 1, allow_inf_nan=False)]
PositiveShare = Annotated[float, _number("more than 0, 1 at most", gt=0, le=1)]
ValidationShare = Annotated[float, _number("from 0 to below 0.5", ge=0, lt=0.5)]
Positive = Annotated[float, _number("more than 0, 1 000 000 at most", gt=0, le=1e6)]
Hertz = Annotated[float, _number("more than 0, 1e12 at most", gt=0, le=1e12)]
CarrierHz = Annotated[float, _number("1e6 … 1e12, in hertz: 77 GHz are 77e9", ge=1e6, le=1e12)]
BelowOne = Annotated[float, _number("from 0 to below 1", ge=0, lt=1)]
_Finite = Annotated[float, _number("finite", allow_inf_nan=False)]
Betas = Annotated[tuple[BelowOne, BelowOne], Field(description="two numbers, each from 0 to below 1")]
TwoShares = Annotated[tuple[Share, Share], Field(description="two shares in 0 … 1")]
Interval = Annotated[tuple[Share, Share], AfterValidator(_rising),
                     Field(description="two shares in 0 … 1, the smaller one first")]
SpeedRange = Annotated[tuple[_Finite, _Finite], AfterValidator(_rising_or_zeros),
                       Field(description="two speeds in -10 000 … 10 000, the lower one first, or two zeros")]
RangeM = Annotated[tuple[_Finite, _Finite], AfterValidator(_rising_from_zero),
                   Field(description="two distances from 0 on, the nearer one first")]
TwoNumbers = Annotated[tuple[_Finite, _Finite], Field(description="two finite numbers")]
FourNumbers = Annotated[tuple[_Finite, _Finite, _Finite, _Finite], Field(description="four finite numbers")]
Augmentation = Literal["classical", "MixUp", "CutMix"]     # of a classifier's training images
Augmentations = tuple[Augmentation, ...]
Mixing = Literal["shares", "concat"]        # of real and added images
Budget = Literal["steps", "epochs"]         # what the classifiers of all arms have in common
UserNumbers = Annotated[tuple[CountOrZero, ...], Field(description="users' numbers, such as 4 9")]
TrainSize = Count | Annotated[float, _number("a share between 0 and 1", gt=0, lt=1)] | Literal["all_but_test"]
Multiples = Annotated[tuple[Few, ...], Field(min_length=1, max_length=8, description="one to eight numbers in 1 … 64")]


def check_limits(constants: Any) -> None:
    """Raises InputError with the first field of a dataclass instance that is outside the limits of its type."""
    try:
        TypeAdapter(type(constants)).validate_python(vars(constants))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        hint = get_type_hints(type(constants), include_extras=True)[name]
        raise InputError(_refusal(name, getattr(constants, name), hint, error)) from None


def _refusal(name: str, value: Any, hint: Any, error: ValidationError) -> str:
    """What to say of a value that pydantic refused; hint: its type with the limits."""
    first = error.errors()[0]
    limits = [part.description for kind in (hint, *get_args(hint)) for part in get_args(kind)
              if isinstance(part, FieldInfo)]
    if not limits or first["type"].endswith(("_type", "_parsing")):
        return f"{name} is {value!r}; expected {first['msg'].removeprefix('Input should be ')}"
    return f"{name} is {value}; expected {limits[0]}"


def as_declared(value: Any, hint: Any) -> Any:
    """A value that Python code gave, as its type `hint` has it. Text becomes a Path, a list or array a tuple, one value
    a tuple of one, and NumPy's numbers become Python's. Everything else stays as it is."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    kinds = (hint, *get_args(hint))
    if isinstance(value, (str, Path)) and Path in kinds:
        return Path(value).expanduser()     # no shell has done so in Python, and in --data_path=~/data
    for kind in kinds:
        if get_origin(kind) is tuple and value is not None:
            values = value if isinstance(value, (tuple, list, range)) else (value,)
            return tuple(as_declared(part, get_args(kind)[0]) for part in values)
    return value


def convert_fields(constants: Any) -> None:
    """Make all fields of a frozen dataclass instance `as_declared`; for its __post_init__."""
    for name, hint in get_type_hints(type(constants)).items():
        object.__setattr__(constants, name, as_declared(getattr(constants, name), hint))


def checks_arguments(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorates a function that users call from Python. Its arguments become `as_declared`. It raises InputError for
    one that is not of its type, or outside the limits of its type."""
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)

    @wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        given = signature.bind(*args, **kwargs)
        for name in given.arguments.keys() & hints.keys():
            hint = hints[name]
            value = given.arguments[name] = as_declared(given.arguments[name], hint)
            if is_dataclass(hint):      # by name: the Config of a script that runs is not the one that others import
                if type(value).__name__ != hint.__name__:  # type: ignore[union-attr]
                    raise InputError(f"{name} is {value!r}; expected a {hint.__name__}")  # type: ignore[union-attr]
                continue
            try:
                TypeAdapter(hint).validate_python(value, strict=True)
            except ValidationError as error:
                raise InputError(_refusal(name, value, hint, error)) from None
        return function(*given.args, **given.kwargs)
    return checked


def to_plain(constants: Any) -> dict[str, Any]:
    """A dataclass instance as JSON's types: paths become text, tuples become lists."""
    return {name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for name, value in asdict(constants).items()}


def from_plain(plain: dict[str, Any], defaults: Constants) -> Constants:
    """The inverse of to_plain. What `plain` lacks is as in `defaults`; what is unknown is left out; limits are not
    checked.

    Raises InputError when a value is not of its field's type.
    """
    if not isinstance(plain, dict):
        raise InputError(f"it is of type {type(plain).__name__}")
    hints = get_type_hints(type(defaults))
    return type(defaults)(**{**vars(defaults), **{name: read_plain(name, plain[name], hint)
                                                  for name, hint in hints.items() if name in plain}})


def read_plain(name: str, value: Any, hint: Any) -> Any:
    """A value of to_plain as its type `hint`; tuples may have any length. Raises InputError, with the value's `name`,
    when it is not of this type."""
    if type(None) in get_args(hint):
        if value is None:
            return None
        hint = Union[tuple(part for part in get_args(hint) if part is not type(None))]
    convert: Any = None
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        hint, convert = list, lambda parts: tuple(read_plain(name, part, item) for part in parts)
    elif Path in (hint, *get_args(hint)):
        hint, convert = InstanceOf[str], Path       # as str, pydantic would refuse paths that are not UTF-8
    try:
        value = TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        raise InputError(f"{name}: {error.errors()[0]['msg']}") from None
    return convert(value) if convert else value
