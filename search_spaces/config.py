"""The sweep file as typed, frozen records; the class that every other part receives."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from search_spaces.crosschecks import cross_flaws
from search_spaces.distributions import Scalar, scalar_flaws
from search_spaces.faults import Flaw, hint, shown, validation_error
from search_spaces.messages import flaws_of
from search_spaces.points import spelled_out
from search_spaces.space import Space
from trainers.data import DATASETS
from trainers.hyperparameters import HYPERPARAMETERS, MODELS

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_SEED = 2**32 - 1


def _one_of(names: tuple[str, ...], value: str) -> str:
    if value not in names:
        message = f"unknown name {value!r}{hint(value, names)}"
        raise validation_error([Flaw((), message)])
    return value


_Dataset = Annotated[
    str,
    AfterValidator(partial(_one_of, tuple(DATASETS))),
    Field(json_schema_extra={"enum": list(DATASETS)}),
]
_Model = Annotated[
    str,
    AfterValidator(partial(_one_of, MODELS)),
    Field(json_schema_extra={"enum": list(MODELS)}),
]
_Optimizer = Annotated[
    str,
    AfterValidator(partial(_one_of, tuple(HYPERPARAMETERS))),
    Field(json_schema_extra={"enum": list(HYPERPARAMETERS)}),
]


def _check_gpus(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "auto" or (number and (0 <= value < 1 or (value >= 1 and value % 1 == 0))):
        return value
    rule = "gpus_per_trial must be auto, a whole number or a fraction below 1"
    raise validation_error([Flaw((), f"{rule}, but got {shown(value)}")])


def _check_points(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list | tuple):
        raise validation_error([Flaw((), f"enqueue must be a list, but got {shown(value)}")])
    return tuple(spelled_out(point) if isinstance(point, Mapping) else point for point in value)


def _check_expected(value: Any) -> dict[str, Scalar] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise validation_error([Flaw((), f"expected must be a mapping, but got {shown(value)}")])
    flaws = [flaw for key, entry in value.items() for flaw in scalar_flaws(entry, (key,), "any")]
    if flaws:
        raise validation_error(flaws)
    return dict(value)


class Record(BaseModel):
    """A frozen section that refuses keys it does not know and converts no types."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        defer_build=True,  # keeps the import fast
    )


class Data(Record):
    """What is trained on, and what a trial is judged on."""

    dataset: _Dataset = Field(description="Name of the dataset.")
    validation_examples: int = Field(
        default=0, ge=0, description="Examples cut from the training split, always the same ones."
    )
    validation_split: Literal["train", "test"] = Field(
        default="train",
        description="Where validation examples come from; `test` takes the whole test split.",
    )
    train_examples: int | None = Field(
        default=None, ge=1, description="Examples to train on; null is all that are left."
    )

    @model_validator(mode="after")
    def _check_validation(self) -> "Data":
        least = self.validation_split == "train"
        if least != (self.validation_examples >= 1):
            rule = "validation_examples >= 1" if least else "validation_examples == 0"
            message = (
                f"{rule} must hold with validation_split: {self.validation_split}, "
                f"but got {self.validation_examples}"
            )
            raise validation_error([Flaw(("validation_examples",), message)])
        left = DATASETS[self.dataset].train_examples
        if self.validation_examples >= left:
            rule = f"validation_examples < {left} must hold for {self.dataset}"
            message = f"{rule}, but got {self.validation_examples}"
            raise validation_error([Flaw(("validation_examples",), message)])
        left -= self.validation_examples
        if self.train_examples is not None and self.train_examples > left:
            rule = f"train_examples <= {left}, those that are left, must hold for {self.dataset}"
            message = f"{rule}, but got {self.train_examples}"
            raise validation_error([Flaw(("train_examples",), message)])
        return self


class Training(Record):
    """One trial's training; what stands here is the same for every trial of a sweep."""

    model: _Model = Field(default="cnn", description="Name of the network.")
    optimizer: _Optimizer = Field(
        default="sgd", description="Name of the optimizer; its hyperparameters stand in `space`."
    )
    num_epochs: int = Field(ge=1, le=100_000, description="Passes over the training examples.")
    batch_size: int = Field(ge=1, le=1_000_000, description="Examples per optimizer step.")
    seed: int = Field(default=0, ge=0, le=_SEED, description="Seeds the weights and the shuffling.")
    shuffle: bool = Field(default=True, description="A new order of the examples in each epoch.")
    loss_reduction: Literal["mean", "sum"] = Field(
        default="mean", description="How the losses of a batch become the one that is minimized."
    )


class Search(Record):
    """How trials are proposed, how many, and what makes one better."""

    algorithm: Literal["tpe", "random", "grid", "cmaes"] = Field(
        default="tpe", description="What proposes the next trial."
    )
    num_trials: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Trials in all, enqueued ones included."
    )
    hours: float | None = Field(
        default=None, gt=0, description="No trial starts later than this, in hours."
    )
    target: float | None = Field(
        default=None,
        description="No trial starts once one has ended with a metric as good as this.",
    )
    metric: Literal["val_accuracy", "val_loss", "train_loss"] = Field(
        default="val_accuracy", description="What trials are compared by, after the last epoch."
    )
    goal: Literal["maximize", "minimize"] = Field(
        default_factory=lambda given: (
            "maximize" if given.get("metric") == "val_accuracy" else "minimize"
        ),
        description="Whether a larger metric is better; left out, it follows the metric.",
    )
    seed: int = Field(default=0, ge=0, le=_SEED, description="Seeds the proposals.")

    @model_validator(mode="after")
    def _check_end(self) -> "Search":
        if self.num_trials is None and self.hours is None and self.algorithm != "grid":
            message = "num_trials must be given, but is missing; or give hours"
            raise validation_error([Flaw(("num_trials",), message)])
        return self


class Pruning(Record):
    """Which trials are stopped early."""

    algorithm: Literal["none", "asha", "median"] = Field(
        default="none", description="What decides that a trial is stopped."
    )
    grace_epochs: int = Field(default=1, ge=1, description="Epochs that every trial is given.")
    reduction_factor: int = Field(
        default=3, ge=2, description="asha: one in this many goes on from each rung."
    )
    compare: Literal["family", "all"] = Field(
        default="family", description="Whether a trial is held against its own family or all."
    )


class Resources(Record):
    """What one trial is given."""

    gpus_per_trial: Annotated[Literal["auto"] | float, BeforeValidator(_check_gpus)] = Field(
        default="auto", description="GPUs: whole, or a share of one; auto: 1 where there is one."
    )
    cpus_per_trial: float = Field(default=1, gt=0, description="CPU cores.")
    max_concurrent: int | None = Field(
        default=None, ge=1, description="Trials at a time; null is as many as fit."
    )


class Tracking(Record):
    """Where a sweep is shown."""

    experiment: str = Field(default="sweep", min_length=1, description="The MLflow experiment.")


class SweepConfig(Record):
    """A sweep: a training, the space of its schedules, and the way to search it."""

    version: Literal[1] = Field(description="Version of this format.")
    name: str = Field(
        pattern=NAME_PATTERN, description="Names the sweep: letters, digits, '.', '_' and '-'."
    )
    description: str = Field(default="", description="Free text for people.")
    data: Data = Field(description="The dataset and its splits.")
    training: Training = Field(description="What is the same for every trial.")
    space: Space = Field(
        description="What differs between trials: schedules, warmup, hyperparameters."
    )
    enqueue: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_check_points)] = Field(
        default=(), description="Points of the space that are tried first, in this order."
    )
    search: Search = Field(description="How the space is searched.")
    pruning: Pruning = Field(default_factory=Pruning, description="Which trials are stopped early.")
    resources: Resources = Field(default_factory=Resources, description="What one trial is given.")
    tracking: Tracking = Field(default_factory=Tracking, description="Where the sweep is shown.")
    expected: Annotated[dict[str, Scalar] | None, BeforeValidator(_check_expected)] = Field(
        default=None, description="What an exported trial reached; ignored on launch."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _check_all(
        cls, data: Any, handler: ModelWrapValidatorHandler["SweepConfig"]
    ) -> "SweepConfig":
        """Reports the faults of every section and those between sections together."""
        config = None
        flaws: list[Flaw] = []
        try:
            config = handler(data)
        except ValidationError as error:
            flaws = flaws_of(error, cls)
        flaws += _between_sections(data)
        if config is None or flaws:
            raise validation_error(flaws)
        return config


def _between_sections(data: Any) -> Iterator[Flaw]:
    """The faults between those sections that are valid by themselves."""
    if not isinstance(data, Mapping):
        return
    sections = {"training": Training, "search": Search, "pruning": Pruning}
    valid: dict[str, Any] = {}
    for key, section in sections.items():
        try:
            valid[key] = section.model_validate(data.get(key, {}))
        except ValidationError:
            valid[key] = None
    yield from cross_flaws(data, **valid)
