"""Settings of what rows are made of, and of the steps by which raw rows become rows to train on."""

from typing import Annotated

from pydantic import Field, create_model, model_validator

from steps.judges.judge import AUTO as JUDGE_OF_GOLDS
from steps.judges.kinds import JUDGES
from steps.settings.base import ROWS_AT_ONCE, OneOf, Seed, Settings, Share, Text, Unique
from steps.settings.errors import meant
from steps.settings.formats import AUTO, FORMATS, TURN_KEYS
from steps.settings.names import FilePath, checked_path, spelled
from steps.settings.pass_rates import PassRates

# The steps by which raw rows become rows to train on, in their order.
DATA_STEPS = ("ingest", "filter", "dedup", "decontaminate", "split")
LANGUAGES = (
    "en", "de", "es", "fr", "it", "pt", "nl", "pl", "sv", "tr", "ru", "uk", "el", "ar", "he", "hi", "ko", "ja", "zh",
)  # fmt: skip

TRAINED_TURNS = ("every", "last")
# The keys of a source that reading its rows rests on.
READ = ("path", "format", "columns", "ignore", "keep", "train")

Languages = Annotated[list[Annotated[str, OneOf(LANGUAGES)]], Unique, Field(min_length=1)]
Sha256 = Annotated[
    str,
    spelled(r"^[0-9a-f]{64}$", "64 small hex digits, as sha256sum prints", description="What a file must have, in hex"),
]


class OfHub(Settings):
    """What lies here or, with a revision, on the hub."""

    path: FilePath = Field(description="A file or folder or, with a revision, what the hub calls it")
    revision: str = spelled(
        r"^[0-9a-f]{7,40}$",
        "a commit, 7 to 40 hex digits; copy it from the repository's history",
        "",
        description="A commit of the hub, 7 or more hex digits",
    )

    @model_validator(mode="after")
    def _a_hash_is_of_what_is_fetched(self) -> "OfHub":
        if "sha256" in self.model_fields_set and "revision" not in self.model_fields_set:
            raise ValueError(".sha256: has no effect without `revision`; add it or remove sha256")
        # Where it is fetched to is named after it.
        if "revision" in self.model_fields_set and {"", ".", ".."} & {*self.path.split("/")}:
            raise ValueError(
                f".path: {self.path!r} is no path of the hub; write owner/name, and of rows owner/name/file"
            )
        return self


# What a model may say of its chat template. The model then stands in a folder of its own, with that template.
TEMPLATED = ("chat_template", "template_kwargs", "system", "fold_system", "end_of_turn")
# By which a chat template is known from the path of one.
JINJA = ("{{", "{%")


class Model(OfHub):
    """A checkpoint that recipes start from."""

    sha256: dict[str, Sha256] = Field({}, description="What files must have: the file's name to its hash")
    base: Text = Field("", description="Of an adapter: the entry of models that it adapts")
    chat_template: Text = Field("", description="In place of its own: a file, or the Jinja itself")
    template_kwargs: dict[
        Annotated[str, spelled(r"^[A-Za-z_]\w*$", "letters, digits and _, the first no digit")],
        bool | int | float | str,
    ] = Field({}, description="Variables of the chat template, such as enable_thinking: false")
    system: Text = Field("", description="The system turn of conversations that have none")
    fold_system: bool = Field(False, description="A system turn becomes the beginning of the first question")
    end_of_turn: Text = Field("", description="The token behind each answer, where the chat template writes none")

    @model_validator(mode="after")
    def _a_template_is_a_file_or_jinja(self) -> "Model":
        if is_file_of_template(self.chat_template):
            checked_path(self.chat_template)
        return self


def templated(model: dict) -> dict:
    """What an entry of `models` says of its chat template; empty where it says nothing."""
    return {key: model[key] for key in TEMPLATED if model.get(key)}


def is_file_of_template(value: str) -> bool:
    """Whether a `chat_template` names a file, and is not the Jinja itself."""
    return bool(value) and not any(mark in value for mark in JINJA)


class Filter(Settings):
    """Taking out rows that are unfit in themselves."""

    language: Annotated[str | None, OneOf((None, *LANGUAGES))] | Languages = Field(
        description="Of the rows, one or several; null accepts every one"
    )
    min_prompt_chars: int = Field(ge=0, description="Characters of all user turns")
    max_prompt_chars: int = Field(gt=0, description="Characters of all user turns")
    min_response_chars: int = Field(ge=0, description="Characters of all assistant turns")
    max_response_chars: int = Field(gt=0, description="Characters of all assistant turns")
    max_repetition: Share = Field(description="Share of a turn's runs of eight words that may be repeats")


# What a source may say itself, by the rule that it is said to: it stands before the section, for the source's rows.
OF_SOURCE = {
    "filter": tuple(Filter.keys()),
    "dedup": ("near_duplicates", "contradictions"),
    "split": ("cap",),
}
# The section's keys, any of which may be left out.
_Filtered: type[Settings] = create_model(
    "_Filtered",
    __base__=Settings,
    **{
        name: (
            Annotated[info.annotation, Field(), *info.metadata],
            Field(None, description=f"As in filter: {info.description}"),
        )
        for name, info in Filter.model_fields.items()
    },
)  # type: ignore[call-overload]


class Source(OfHub, _Filtered):  # type: ignore[misc, valid-type]
    """Files of rows."""

    path: FilePath = Field(
        description="A file, a folder or a pattern such as rows/*.parquet or, with a revision, a file of the hub"
    )
    format: Annotated[str, OneOf((AUTO, *FORMATS))] = Field(
        AUTO, description="How its rows are laid out; auto recognises it by the names of their fields"
    )
    columns: dict[str, str] = Field({}, description="Fields by another name: the format's name to the file's")
    ignore: Annotated[list[str], Unique] = Field(
        [], description="Fields that do not change here what a row means, though they do elsewhere"
    )
    keep: Annotated[list[str], Unique] = Field(
        [], description="Fields that its rows carry for rewards; of a.b the key b of the object a"
    )
    train: Annotated[str, OneOf(TRAINED_TURNS)] = Field(
        "every", description="Which of the assistant's turns are trained on"
    )
    sha256: Sha256 = Field("")
    near_duplicates: bool = Field(True, description="Whether near duplicates among its rows are taken out")
    contradictions: bool = Field(True, description="Whether rows that contradict each other are taken out")
    weight: float = Field(  # type: ignore[assignment]  # may be left out
        None, gt=0, description="How often a training deals each of its rows in an epoch, on average; 1 unless said"
    )
    cap: int = Field(  # type: ignore[assignment]  # may be left out
        None, ge=1, description="Rows that stay, drawn at random; the others are quarantined"
    )

    @model_validator(mode="after")
    def _columns_are_of_the_format(self) -> "Source":
        formats = FORMATS.values() if self.format == AUTO else [FORMATS[self.format]]
        known = dict.fromkeys(name for one in formats for name in one.parts)
        known |= dict.fromkeys(TURN_KEYS if not all(one.of_documents for one in formats) else ())
        for name in self.keep:
            if name in self.ignore:
                raise ValueError(f".keep: {name} is also under `ignore`; remove one")
        for name in self.columns:
            if name not in known:
                raise ValueError(
                    f".columns: format {self.format} has no field {name!r}{meant(name, known)}"
                    " (a field that rewards read stands under `keep`)"
                )
        return self


class DataSet(Settings):
    """A named data set."""

    sources: list[Source] = Field(min_length=1, description="The files of its rows")
    judge: Annotated[str, OneOf((JUDGE_OF_GOLDS, *JUDGES))] = Field(
        JUDGE_OF_GOLDS, description="How responses are compared with its answers; auto: as those ask for"
    )


class Ingest(Settings):
    """Reading rows."""

    max_record_bytes: int = Field(gt=0, description="Largest record; a larger one is quarantined unread")


class Semantic(Settings):
    """Taking out rows that say the same in other words."""

    model: str = Field(description="The entry of models whose states are compared: a language model or an encoder")
    threshold: float = Field(gt=0, le=1, description="Similarity of the vectors from which two rows say the same")
    max_tokens: int = Field(ge=1, description="Tokens of a text that are read; what follows is left out")
    batch_size: int = Field(ge=1, description=ROWS_AT_ONCE)


class Dedup(Settings):
    """Taking out rows that repeat or contradict others."""

    short_answer_words: int = Field(ge=0, description="Responses of at most so many words count as answers")
    threshold: float = Field(gt=0, le=1, description="Similarity from which two rows are near duplicates")
    shingle_words: int = Field(ge=1, description="Words per run, of documents")
    numbers_must_match: bool = Field(description="Two prompts that differ in a number are two problems")
    semantic: Semantic | None = Field(description="Whether rows in other words are looked for, and how; null: not")


class Decontaminate(Settings):
    """Taking out rows that repeat evaluation questions."""

    ngram_words: int = Field(ge=1, description="Length of the n-grams, in words")
    min_overlap: Share = Field(description="Share of a question that must be found in a row to quarantine it")


class Split(Settings):
    """Holding out rows."""

    valid_share: float = Field(gt=0, lt=1, description="Share of the prompts held out, with their rows")
    seed: Seed = Field(description="Another one holds out other prompts")


class Bucket(PassRates):
    """Difficulty of every training row for a base model."""

    model: str = Field(description="The entry of models: whose pass rate is measured")
