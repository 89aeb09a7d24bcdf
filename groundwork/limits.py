"""Types of numbers that have limits, for the fields of a dataclass, and that dataclass to and from JSON, by pydantic.

For type checkers and command lines, a field `num_users: Count = 31` is a plain int. `check_limits` checks the limits;
creating the dataclass does not. The upper limits are far above all values that make sense.
"""
import json
from dataclasses import asdict
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from groundwork.errors import InputError

Constants = TypeVar("Constants")


def _within(low: float, high: float, **options: Any) -> Any:
    return Field(ge=low, le=high, description=f"{low:,} … {high:,}".replace(",", " "), **options)


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if not values[0] <= values[1]:
        raise ValueError("falls")
    return values


def _rising_or_zeros(values: tuple[float, float]) -> tuple[float, float]:
    if values != (0, 0) and not -1e4 <= values[0] < values[1] <= 1e4:
        raise ValueError("falls, or is out of range")
    return values


# An error message quotes the description as what was expected.
Few = Annotated[int, _within(1, 64)]
Size = Annotated[int, _within(1, 4096)]
Count = Annotated[int, _within(1, 100_000)]
NumSteps = Annotated[int, _within(1, 1_000_000_000)]
CountOrZero = Annotated[int, _within(0, 100_000)]
Seed = Annotated[int, _within(0, 2_000_000_000)]
Duration = Annotated[float, _within(0, 100_000, allow_inf_nan=False)]
Weight = Annotated[float, _within(0, 1000, allow_inf_nan=False)]
Share = Annotated[float, _within(0, 1, allow_inf_nan=False)]
PositiveShare = Annotated[float, Field(gt=0, le=1, description="more than 0, 1 at most")]
Positive = Annotated[float, Field(gt=0, le=1e6, description="more than 0, 1 000 000 at most")]
EvenSize = Annotated[int, Field(ge=4, le=4096, multiple_of=2,
                                description="an even number in 4 … 4 096 (half sines, half cosines of the time)")]
BatchSize = Annotated[int, Field(ge=2, le=4096,
                                 description="2 … 4 096 (batch normalisation needs two images)")]
ClassifierSize = Annotated[int, Field(ge=32, le=4096,
                                      description="32 … 4 096 (ResNet18 halves it five times)")]
Multiples = Annotated[tuple[Few, ...], Field(min_length=1, max_length=8, description="one to eight numbers in 1 … 64")]
_BelowOne = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[_BelowOne, _BelowOne], Field(description="two numbers, each from 0 to below 1")]
TwoShares = Annotated[tuple[Share, Share], Field(description="two shares in 0 … 1")]
Interval = Annotated[tuple[Share, Share], AfterValidator(_rising),
                     Field(description="two shares in 0 … 1, the smaller one first")]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
SpeedRange = Annotated[tuple[_Finite, _Finite], AfterValidator(_rising_or_zeros),
                       Field(description="two speeds in -10 000 … 10 000, the lower one first, or two zeros")]


def check_limits(constants: Any) -> None:
    """Raises InputError with the first field of a dataclass instance that is outside the limits of its type."""
    try:
        TypeAdapter(type(constants)).validate_python(vars(constants))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        hint = get_type_hints(type(constants), include_extras=True)[name]
        limits = [part.description for part in getattr(hint, "__metadata__", ()) if isinstance(part, FieldInfo)]
        expected = limits[0] if limits else first["msg"].removeprefix("Input should be ")
        raise InputError(f"{name} is {getattr(constants, name)}; expected {expected}") from None


def to_plain(constants: Any) -> dict[str, Any]:
    """A dataclass instance as JSON's types: paths become text, tuples become lists."""
    return to_jsonable_python(asdict(constants))


def from_plain(plain: dict[str, Any], defaults: Constants) -> Constants:
    """The inverse of to_plain. What `plain` lacks is as in `defaults`; what is unknown is left out; limits are not
    looked at.

    Raises InputError when a value is not of its field's type.
    """
    try:
        model = _model_of(type(defaults)).model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{where or 'the whole'}: {first['msg']}") from None
    return type(defaults)(**{**vars(defaults), **{name: getattr(model, name) for name in model.model_fields_set}})


def _model_of(kind: type) -> type[BaseModel]:
    """For reading a dataclass from JSON: without limits, and with tuples of any length."""
    fields: dict[str, Any] = {name: (_any_length(hint), None) for name, hint in get_type_hints(kind).items()}
    return create_model(kind.__name__, **fields)


def _any_length(hint: Any) -> Any:
    return tuple[get_args(hint)[0], ...] if get_origin(hint) is tuple else hint  # type: ignore[misc]  # mypy reads a type
