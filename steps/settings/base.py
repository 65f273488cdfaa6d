"""What the classes of settings have in common: strictness, and the types that several sections share.

Imports nothing heavy: Snakemake loads all of steps/settings at every parse.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, Union, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError, core_schema

Item = TypeVar("Item")


class Settings(BaseModel):
    """One section of params.yaml, or a mapping in one. Text is no number, true no 1, and no key is unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def keys(cls) -> list[str]:
        """As params.yaml spells them."""
        return [info.alias or name for name, info in cls.model_fields.items()]

    @classmethod
    def fit(cls, settings: dict) -> None:
        """What the types cannot say: whether settings of this class fit each other, as a recipe or a rule has them.

        A section of params.yaml need not fit, for a recipe may change what does not.

        Raises:
            ValueError: naming the key, its value and the fix.
        """

    @model_validator(mode="before")
    @classmethod
    def _every_key_is_known(cls, value: Any) -> Any:
        """As pydantic's own check, which does not say which keys there are."""
        if isinstance(value, dict) and cls.model_config.get("extra") == "forbid":
            known, kind = cls.keys(), cls.model_fields.get("kind")
            # Of a mapping that its kind tells apart, other kinds may have the key.
            by_kind = kind is not None and get_origin(kind.annotation) is Literal
            for key in value:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key", "unknown key", {"key": key, "known": known, "by_kind": by_kind}
                    )
        return value


@dataclass(frozen=True)
class OneOf:
    """Marks a setting as one of a registry's names: `Annotated[str, OneOf(NAMES)]`."""

    names: tuple[str | None, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema([*self.names])


@dataclass(frozen=True, eq=False)
class ByKind:
    """Marks a mapping that is told apart by its `kind`, each with the keys of its class and no other."""

    kinds: Mapping[str, type[Settings]] = field(repr=False)

    @cached_property
    def variants(self) -> list[type[BaseModel]]:
        return [
            create_model(
                f"{cls.__name__}_{kind}",
                __base__=cls,
                __doc__=cls.__doc__,
                kind=(Literal[kind], Field(description="Which")),  # type: ignore[arg-type]  # of a registry's name
            )
            for kind, cls in self.kinds.items()
        ]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        union: Any = Union[tuple(self.variants)]  # noqa: UP007  of as many as there are
        return handler.generate_schema(Annotated[union, Field(discriminator="kind")])


def _without_repeats(items: list[Item]) -> list[Item]:
    for i, item in enumerate(items):
        # True == 1, but they are two values of a grid; 1 and 1.0 are one.
        if any(item == other and isinstance(item, bool) == isinstance(other, bool) for other in items[:i]):
            raise ValueError(f"{items} has {item!r} twice; write it once")
    return items


Unique = AfterValidator(_without_repeats)
Share = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1)]
# As wide as numpy's.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
Edges = Annotated[list[Share], Field(min_length=2, max_length=2)]
# What becomes of the thoughts of rows. kept: trained on, in tags before the content where the template has no place for
# them; emptied: taken out; template: as it writes them, and a row whose thought it would lose is left out.
THINKING = ("kept", "emptied", "template")
EDGES = "Pass rates at which medium and easy begin: hard < first <= medium < second <= easy"
ROWS_AT_ONCE = "Rows at once: larger is faster until memory is full"


class Draws(Settings):
    """What is the same of every step that samples a model."""

    samples: int = Field(ge=1, description="Responses to each row")
    temperature: float = Field(gt=0, description="Of the softmax that is sampled from")
    max_new_tokens: int = Field(ge=1, description="Tokens of the longest response")
    batch_size: int = Field(ge=1, description=ROWS_AT_ONCE)
    seed: Seed = Field(description="Of the draws")


SHORT_ANSWER = "Responses of at most so many words are the answer itself"
