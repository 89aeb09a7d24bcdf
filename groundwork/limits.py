"""Types of numbers that have limits, for the fields of a dataclass, and that dataclass to and from JSON, by pydantic.

For type checkers and command lines, a field `num_users: Count = 31` is a plain int. `check_limits` checks the limits;
creating the dataclass does not. The upper limits are far above all values that make sense.
"""
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, Field, InstanceOf, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from groundwork.errors import InputError

Constants = TypeVar("Constants")


def _number(expected: str, **limits: Any) -> Any:
    """Limits of a number, and the words in which an error message says what was expected."""
    return Field(description=expected, strict=True, **limits)


def _within(low: float, high: float, **options: Any) -> Any:
    return _number(f"{low:,} … {high:,}".replace(",", " "), ge=low, le=high, **options)


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if not values[0] <= values[1]:
        raise ValueError("falls")
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
ClassifierSize = Annotated[int, _number("32 … 4 096 (ResNet18 halves it five times)", ge=32, le=4096)]
Duration = Annotated[float, _within(0, 100_000, allow_inf_nan=False)]
Weight = Annotated[float, _within(0, 1000, allow_inf_nan=False)]
Share = Annotated[float, _within(0, 1, allow_inf_nan=False)]
PositiveShare = Annotated[float, _number("more than 0, 1 at most", gt=0, le=1)]
Positive = Annotated[float, _number("more than 0, 1 000 000 at most", gt=0, le=1e6)]
_BelowOne = Annotated[float, _number("from 0 to below 1", ge=0, lt=1)]
_Finite = Annotated[float, _number("finite", allow_inf_nan=False)]
Betas = Annotated[tuple[_BelowOne, _BelowOne], Field(description="two numbers, each from 0 to below 1")]
TwoShares = Annotated[tuple[Share, Share], Field(description="two shares in 0 … 1")]
Interval = Annotated[tuple[Share, Share], AfterValidator(_rising),
                     Field(description="two shares in 0 … 1, the smaller one first")]
SpeedRange = Annotated[tuple[_Finite, _Finite], AfterValidator(_rising_or_zeros),
                       Field(description="two speeds in -10 000 … 10 000, the lower one first, or two zeros")]
TwoNumbers = Annotated[tuple[_Finite, _Finite], Field(description="two finite numbers")]
FourNumbers = Annotated[tuple[_Finite, _Finite, _Finite, _Finite], Field(description="four finite numbers")]
TrainSize = Count | Annotated[float, _number("a share between 0 and 1", gt=0, lt=1)] | Literal["all_but_test"]
Multiples = Annotated[tuple[Few, ...], Field(min_length=1, max_length=8, description="one to eight numbers in 1 … 64")]


def check_limits(constants: Any) -> None:
    """Raises InputError with the first field of a dataclass instance that is outside the limits of its type."""
    try:
        TypeAdapter(type(constants)).validate_python(vars(constants))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        value = getattr(constants, name)
        if first["type"].endswith(("_type", "_parsing")):
            raise InputError(f"{name} is {value!r}; expected {first['msg'].removeprefix('Input should be ')}") from None
        hint = get_type_hints(type(constants), include_extras=True)[name]
        expected = next(part.description for part in get_args(hint) if isinstance(part, FieldInfo))
        raise InputError(f"{name} is {value}; expected {expected}") from None


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
