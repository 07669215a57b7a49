"""Settings: one frozen, strict model per section of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from qin.config.features import FeatureParams
from qin.config.labels import MOST_LABELS, label_problems, name_problems
from qin.config.network import DROPOUTS, ModelParams
from qin.config.section import Names, Ratio, Section, Seed
from qin.config.split import SplitParams
from qin.runtime.errors import did_you_mean
from qin.runtime.sources import source_name

# Below it nothing is left of a log, and a weight that makes up for it is no number of 32 bits.
_LEAST_SHARE = 1e-6

Share = Annotated[float, Field(ge=0, le=1)]
# What NumPy's 64-bit integers hold.
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1, lt=2**63)]
# What no machine can hold, start or divide into is refused here; what this one cannot, where its size is known.
RowCount = Annotated[int, Field(ge=1, lt=2**31)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Processes = Annotated[int, Field(ge=1, le=2**16)]
# 0 switches off what is sampled; of fewer than 100 rows no figure would mean anything.
RowLimit = Literal[0] | Annotated[int, Field(ge=100, lt=2**31)]
BatchSize = Annotated[int, Field(ge=2, lt=2**31)]
RawSource = str | Annotated[list[str], Field(min_length=1)]
Labels = str | Annotated[list[str], Field(min_length=1, max_length=MOST_LABELS)]


class DataParams(Section):
    """Where the log is and which of its columns are not features."""

    train: RawSource
    test: RawSource | None
    sample_submission: str | None
    label: Labels
    label_heads: Literal["separate", "shared"] = "separate"
    id: str
    drop: list[str] = []
    ignore: list[str] = []

    @property
    def train_name(self) -> str:
        """What messages call the train log."""
        return source_name(self.train)

    @property
    def test_name(self) -> str:
        """What messages call the log to predict."""
        return "no test log" if self.test is None else source_name(self.test)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns to predict, each by a model of its own; most often there is one."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @property
    def shares_heads(self) -> bool:
        """Whether labels are learned together; of one label there is nothing to share."""
        return self.label_heads == "shared" and len(self.labels) > 1

    @property
    def first_label(self) -> str:
        """The label that is meant where none is named."""
        return self.labels[0]

    @field_validator("label")
    @classmethod
    def _one_label_is_a_name(cls, label: str | list[str]) -> str | list[str]:
        if isinstance(label, str):
            return label
        if problems := name_problems(label):
            raise ValueError("; ".join(problems))
        # A list of one is its name, so that both ways to write it leave the same bytes.
        return label[0] if len(label) == 1 else label

    @model_validator(mode="after")
    def _a_test_log_has_a_sample(self) -> "DataParams":
        if self.test is not None and self.sample_submission is None:
            raise ValueError("sample_submission is null, but test is not: the submission's header and order are its")
        return self


class PrepareParams(Section):
    """How prepare works through the files; only `shard_rows` shows in its output."""

    shard_rows: RowCount
    batch_rows: RowCount
    num_threads: Threads
    num_processes: Threads = 1
    launcher: Literal["local", "ray"] = "local"


class ImbalanceParams(Section):
    """What is done about rare clicks while training; weights compose by multiplication."""

    use_neg_downsampling: bool
    neg_downsample_ratio: Annotated[float, Field(ge=_LEAST_SHARE, le=1)]
    reweight_negatives: bool = True
    pos_weight: Annotated[float, Field(ge=_LEAST_SHARE, le=1.0 / _LEAST_SHARE)] | Literal["auto"] | None


class HardNegativeParams(Section):
    """Hard-negative mining inside each batch."""

    enable: bool
    mode: Literal["goss", "pps", "ohem"]
    top_neg_frac: Share
    rest_frac: Share
    min_neg: RowCount
    warmup_steps: Whole = 0
    forward: Literal["auto", "one_pass", "two_pass"] = "auto"

    @model_validator(mode="after")
    def _draws_from_the_rest(self) -> "HardNegativeParams":
        if self.enable and self.mode != "ohem" and self.rest_frac < _LEAST_SHARE:
            raise ValueError(
                f"rest_frac must be at least {_LEAST_SHARE} with mode {self.mode}: negatives that are never drawn "
                f"cannot be weighed in (ohem is biased for that), got {self.rest_frac}"
            )
        return self


class TrainParams(Section):
    """Optimizer, schedule, early stopping, reproducibility."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_threads: Threads
    num_processes: Literal["auto"] | Processes = 1
    launcher: Literal["local", "ray"] = "local"
    max_restarts: Whole = 3
    elastic: bool = False
    shard_tables: bool = False
    batch_size: Literal["auto"] | BatchSize
    eval_batch_size: RowCount
    buffer_rows: RowCount
    epochs: Count
    checks_per_epoch: Count = 4
    patience: Count
    lr: Annotated[float, Field(gt=0)]
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["constant", "cosine", "plateau"]
    warmup_steps: Whole
    gradient_clip: Annotated[float, Field(gt=0)] | None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    self_ensemble: Annotated[float, Field(ge=0)] = 0.0
    refit: Literal["none", "all"] = "none"
    init_from: str | None = None
    init_optimizer: bool = False
    keep_optimizer: bool = False
    checkpoint_seconds: Annotated[float, Field(ge=0)]
    checkpoint_steps: Count | None = None

    @model_validator(mode="after")
    def _an_optimizer_has_its_model(self) -> "TrainParams":
        if self.init_optimizer and self.init_from is None:
            raise ValueError("init_optimizer: true needs init_from, which is null")
        return self

    @model_validator(mode="after")
    def _divided_tables_are_in_no_process_whole(self) -> "TrainParams":
        if not self.shard_tables:
            return self
        if self.num_processes == 1:
            raise ValueError("shard_tables: true needs num_processes of 2 or more, or auto, got 1")
        for name in ("ema_decay", "init_from"):
            if getattr(self, name) is not None:
                raise ValueError(f"shard_tables: true needs {name}: null, which reads whole tables")
        if self.keep_optimizer:
            raise ValueError("shard_tables: true needs keep_optimizer: false, which would keep whole tables' moments")
        return self


class TreeParams(Section):
    """Gradient boosted trees: a member of the model, and the baseline of the network."""

    num_leaves: Literal["auto"] | Annotated[int, Field(ge=2, le=131072)] = "auto"  # LightGBM's own bound
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_rounds: Annotated[int, Field(ge=1, le=100_000)] = 1500
    patience: Count = 50
    column_share: Annotated[float, Field(gt=0, le=1)] = 0.6
    l2: Annotated[float, Field(ge=0)] = 5.0
    max_rows: Literal["auto"] | Annotated[int, Field(ge=100, lt=2**31)] | None = "auto"
    seed: Seed = 0


class CalibrationParams(Section):
    """How logits become probabilities."""

    temperature_scaling: bool
    method: Literal["temperature", "platt", "beta"] = "temperature"
    objective: Literal["log_loss", "wll"]
    by: str | None = None

    @model_validator(mode="after")
    def _segments_need_a_calibrator(self) -> "CalibrationParams":
        if self.by is not None and not self.temperature_scaling:
            raise ValueError(f"by: {self.by} needs temperature_scaling: true; false calibrates nothing")
        return self

    @model_validator(mode="after")
    def _objective_converges(self) -> "CalibrationParams":
        if self.temperature_scaling and self.method == "temperature" and self.objective == "wll":
            raise ValueError(
                "objective wll with temperature scaling diverges on natural-prior logits (a temperature cannot "
                "shift the prior); use log_loss here and predict.prior: balanced for the output"
            )
        return self


class EvaluateParams(Section):
    """Resolution of the calibration error and of the plots; columns whose values are reported one by one; samples."""

    num_bins: Annotated[int, Field(ge=2, le=10**6)]
    num_curve_points: Annotated[int, Field(ge=10, le=10**6)]
    slices: Names = []
    importance_rows: RowLimit = 2000
    seed: Seed = 0


class PredictParams(Section):
    """The submission."""

    prior: Literal["natural", "balanced"] | Ratio
    batch_size: RowCount
    label: str | None = None


class TrackParams(Section):
    """Trackers of other projects that are told about training; they change no output."""

    to: list[Literal["none", "dvclive", "tensorboard", "wandb", "mlflow"]] = []
    every_steps: Count = 20
    project: Annotated[str, Field(min_length=1)] = "qin"


class Params(Section):
    """All of params.yaml."""

    data: DataParams
    features: FeatureParams
    prepare: PrepareParams
    split: SplitParams
    model: ModelParams
    imbalance: ImbalanceParams
    hnm: HardNegativeParams
    train: TrainParams
    trees: TreeParams = TreeParams()
    calibration: CalibrationParams
    evaluate: EvaluateParams
    predict: PredictParams
    track: TrackParams = TrackParams()

    @property
    def refits(self) -> bool:
        """Whether a model of all rows is deployed; with several folds their models are, each as it was judged."""
        return self.train.refit == "all" and self.split.num_folds == 1

    # Rules between sections are asked in this order once every section is right by itself; pydantic ends at the first
    # that is broken.
    @model_validator(mode="after")
    def _folds_start_anew(self) -> "Params":
        if self.split.num_folds > 1 and self.train.init_from is not None:
            raise ValueError(
                f"split.num_folds: {self.split.num_folds} with train.init_from: an earlier model has seen rows that "
                "the folds judge; one of them must go (1, or null)"
            )
        return self

    @model_validator(mode="after")
    def _segments_are_known_before_the_click(self) -> "Params":
        if self.calibration.by in self.data.labels:
            raise ValueError(f"calibration.by: {self.calibration.by} is the label, it cannot divide rows into segments")
        return self

    @model_validator(mode="after")
    def _labels_are_nothing_else(self) -> "Params":
        # As plain values: `labels` stands below this module and knows none of its classes.
        if problems := label_problems(self.data.labels, self.model_dump(mode="json")):
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _each_label_starts_anew(self) -> "Params":
        if len(self.data.labels) > 1 and self.train.init_from is not None:
            raise ValueError(
                f"train.init_from with {len(self.data.labels)} labels in data.label: an earlier model is of one label; "
                "set one of them to null or to one label"
            )
        return self

    @model_validator(mode="after")
    def _heads_are_shared_by_what_all_labels_read(self) -> "Params":
        if not self.data.shares_heads:
            return self
        refused = {
            "imbalance.use_neg_downsampling: true": self.imbalance.use_neg_downsampling,
            "hnm.enable: true": self.hnm.enable,
            f"split.num_folds: {self.split.num_folds}": self.split.num_folds > 1,
            f"train.num_processes: {self.train.num_processes}": self.train.num_processes not in (1, "auto"),
            "train.keep_optimizer: true": self.train.keep_optimizer,
        }
        if names := [name for name, is_set in refused.items() if is_set]:
            raise ValueError(
                f"data.label_heads: shared does not go with {', '.join(names)}, which is of one label; set "
                "label_heads: separate, or the other back"
            )
        return self

    @model_validator(mode="after")
    def _a_submission_is_of_a_label(self) -> "Params":
        wanted, labels = self.predict.label, self.data.labels
        if wanted is not None and wanted not in labels:
            hint = did_you_mean(wanted, labels)
            raise ValueError(f"predict.label: {wanted} is none of data.label ({', '.join(labels)}){hint}")
        return self

    @model_validator(mode="after")
    def _passes_differ(self) -> "Params":
        all_have = all(any(getattr(form, name) for name in DROPOUTS) for form in self.model.forms)
        # The published preset brings dropout of its own, whatever these keys say.
        if self.train.self_ensemble and self.model.preset != "published" and not all_have:
            raise ValueError(
                "train.self_ensemble: both passes are the same without dropout, raise one of "
                + ", ".join(f"model.{name}" for name in DROPOUTS)
                + " (in model.alternatives, too)" * bool(self.model.alternatives)
            )
        return self
