"""What a config may say: one frozen dataclass per section, units beside each field.

The networks, posteriors, priors, likelihoods and objectives are `Part`s: a name in one of the tables of
`vaekit.models.build` and the options of that class or function (its keyword-only parameters).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Range:
    """Bounds of a number, read by `load` when it validates (kept free of pydantic)."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        # pydantic's schemas of numbers call the bounds by the same names
        return {**handler(source), **{key: limit for key, limit in vars(self).items() if limit is not None}}


Count = Annotated[int, Range(ge=1)]
Bits = Annotated[int, Range(ge=1, le=8)]
Index = Annotated[int, Range(ge=0)]
Seed = Annotated[int, Range(ge=0, le=2**53)]  # whole numbers up to here are exact in every JSON
Positive = Annotated[float, Range(gt=0)]
NotNegative = Annotated[float, Range(ge=0)]
Share = Annotated[float, Range(ge=0, lt=1)]

FORBID_UNKNOWN = {"extra": "forbid"}


@dataclass(frozen=True)
class Part:
    """A choice from a table: YAML writes `gaussian` or `{kind: gaussian, scale: optimal}`."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A value that changes with the global step; see `vaekit.config.schedule_shapes` for the shapes.

    YAML may also write a plain number, or a list of (epoch, value) pairs, each held until the next.
    """

    __pydantic_config__ = FORBID_UNKNOWN
    kind: Literal["constant", "linear", "cosine", "cyclical", "pairs"] = "linear"
    start: float = 0.0
    end: float = 1.0
    over: Positive = 1.0  # length of the ramp, or of one cycle
    delay: NotNegative = 0.0  # the start value is held this long first
    ratio: Annotated[float, Range(gt=0, le=1)] = 0.5  # cyclical: share of a cycle spent rising
    pairs: list[tuple[float, float | str]] = field(default_factory=list)  # (time, value), each held until the next
    unit: Literal["step", "epoch"] = "epoch"


PerPixel = str  # "500/pixels": the number over C * H * W, so that a weight on a per-pixel mean is said exactly
Schedule = float | PerPixel | list[tuple[float, float | PerPixel]] | ScheduleConfig
Duration = Annotated[str, "a number and its unit, such as 50 steps or 2 epochs"]
Side = Annotated[int, Range(ge=1, le=16384)]
Size = Side | tuple[Side, Side]  # a square's side, or (height, width), in pixels


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What a reader should know before running a recipe. Free text."""

    __pydantic_config__ = FORBID_UNKNOWN
    about: str = ""
    source: str = ""  # the paper or page it follows
    expect: str = ""  # the number or picture it must reach
    cost: str = ""  # time and machine


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, how they are brought to one shape, and how they are split."""

    __pydantic_config__ = FORBID_UNKNOWN
    source: str = "digits"  # a name of `vaekit data list`
    root: str | None = None  # where data sets lie or are downloaded to; --data-dir; default $VAEKIT_DATA
    path: str | None = None  # the image tree of `folder` and `afhq`
    size: Size | None = None  # resize to this; None keeps the source's own shape
    fit: Literal["crop", "pad", "stretch"] = "crop"  # when the aspect ratio differs
    pad: Size | None = None  # pad with black to this, after resizing: MNIST's 28 to 32
    channels: Literal[1, 3] | None = None  # convert grey and colour into each other
    binarize: Literal["none", "dynamic", "fixed", "threshold"] = "none"
    bits: Bits = 8  # of a pixel value: 8-bit values are cut down to their 2^bits levels, black and white kept
    dequantize: bool = False  # uniform noise inside each step of a value, for densities
    flip: bool = False  # random horizontal flips while training
    shift: Index = 0  # random shifts of up to this many pixels while training
    validation: Annotated[float, Range(ge=0)] | None = None  # images (>= 1) or share (< 1) held out to select
    test: Annotated[float, Range(ge=0)] | None = None  # the same, for sources without a test set of their own
    seed: Seed = 0  # of the splits and of fixed binarisation
    limit: Count | None = None  # use at most this many training images
    strict: bool = False  # refuse a folder with unreadable images instead of skipping them


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """A code that is a small image. Its sides are those of the image, each divided by the same power of 2."""

    __pydantic_config__ = FORBID_UNKNOWN
    channels: Count = 4
    side: Count = 8  # places along the shorter side of an image


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The four parts, and the form of the latent code: a vector of `latent_dim` numbers, or the grid `latent`."""

    __pydantic_config__ = FORBID_UNKNOWN
    kind: Literal["vae", "autoencoder"] = "vae"
    latent_dim: Count = 32  # of a flat code; a grid has channels times places
    latent: LatentConfig | None = None
    network: Part = Part("conv")
    posterior: Part = Part("diagonal")
    prior: Part = Part("standard")
    likelihood: Part = Part("bernoulli")
    context: Literal["none", "class"] = "none"  # class: every part is given the label of its image
    corruption: Literal["none", "gaussian", "mask", "salt"] = "none"  # autoencoder only: a denoising one
    corruption_level: NotNegative = 0.3  # noise's standard deviation, or the share of pixels hit


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the weights are found. Learning-rate schedules count steps or epochs, never calls."""

    __pydantic_config__ = FORBID_UNKNOWN
    epochs: Annotated[float, Range(gt=0, le=1e9)] = 20.0
    batch_size: Count = 128
    samples: Count = 1  # latent samples per image
    optimizer: Literal["adam", "adamw", "adamax"] = "adamw"
    learning_rate: Positive = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0  # of matrices and filters, not of biases, norms and scales
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    schedule_unit: Literal["step", "epoch"] = "step"  # per epoch: the rate changes only between epochs
    warmup: NotNegative | Duration = 0.0  # linear rise from 0: steps, or "2 epochs"
    decay_every: Positive = 10.0  # `step` schedule, in schedule_unit
    decay_factor: Positive = 0.1  # `step` schedule
    final_factor: NotNegative = 0.0  # `cosine` ends at learning_rate times this
    clip: Positive | None = 200.0  # largest gradient norm, nats; None does not clip
    guard: bool = True  # skip updates whose loss or gradient is not finite, and stop after ten in a row
    ema: Share | None = 0.999  # decay of the averaged weights that are evaluated; None averages nothing
    accumulate: Count = 1  # a batch is computed in this many parts
    precision: Literal["float32", "bf16", "fp16"] = "float32"  # of the networks; densities stay float32
    compile: Literal["auto", "on", "off"] = "auto"  # forward and loss; auto: where the run is long enough to win by it
    capture: Literal["auto", "on", "off"] = "auto"  # the whole step as one CUDA graph; on a GPU alone
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    threads: Count | None = None  # CPU threads; None: as many as there are cores to use
    deterministic: bool = False  # on a GPU: the same bytes every time, slower
    seed: Seed = 0
    validate_every: Count | None = None  # steps; None: once an epoch
    checkpoint_every: Count | None = None  # steps; None: at each validation
    log_every: Count = 50  # steps
    patience: Count | None = None  # stop after this many validations without a better loss
    keep: Count = 2  # newest checkpoints kept, beside the best
    start_from: str | None = None  # a run or checkpoint whose weights to start from


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where the numbers and pictures go besides train.log and history.csv, which are always written."""

    __pydantic_config__ = FORBID_UNKNOWN
    tensorboard: bool = False
    wandb: bool = False
    project: str = "vaekit"  # of wandb
    images: Index = 16  # reconstructions and samples sent to TensorBoard and wandb at each validation


@dataclass(frozen=True, kw_only=True)
class Config:
    """One whole run."""

    __pydantic_config__ = FORBID_UNKNOWN
    name: str = "run"
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: Part = Part("elbo")
    training: TrainingConfig = field(default_factory=TrainingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
