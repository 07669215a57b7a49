"""A step in the forms of a GPU moves the weights as the CPU's does; here the CPU makes all of them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from qin.network.kernels.choice import as_other_devices
from qin.network.qin import QIN
from qin.runtime.errors import TrainingError
from qin.scored.prior import TrainingPrior
from qin.shards.loader import Batch
from qin.train import recorded
from qin.train.build import build_optimizer
from qin.train.checkpoint import CheckpointStore
from qin.train.figures import StepFigures
from qin.train.forms import EAGER, Form
from qin.train.imbalance import TrainingRows
from qin.train.loop import Budget, TrainingLoop
from qin.train.step import TrainingStep
from qin.train.watch import Watch
from tests.network.test_other_devices import VARIANTS, make_variant
from tests.network.test_qin import make_batch
from tests.train.runs import plain_params

CPU, ROWS, STEPS = torch.device("cpu"), 40, 8
RECORDED = Form(recorded=True)


def batches() -> list[Batch]:
    out = []
    for seed in range(STEPS):
        categorical, numeric, sequences = make_batch(ROWS, seed=seed)
        label = (torch.rand(ROWS, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
        out.append(Batch(np.arange(ROWS), categorical, numeric, tuple(sequences), label))
    return out


class Batches:
    """A source of the same batches in every epoch."""

    batch_size = ROWS

    def num_batches(self, _: object) -> int:
        return STEPS

    def epoch(self, _: int, __: object, *, first_step: int = 0) -> list[Batch]:
        return batches()[first_step:]


def rows() -> TrainingRows:
    label = np.concatenate([batch.label.numpy() for batch in batches() if batch.label is not None]).astype(np.uint8)
    prior = TrainingPrior(base_rate=float(label.mean()), pos_weight=2.0)
    return TrainingRows(Batches(), np.ones(label.size, np.bool_), label, prior, seed=0)  # type: ignore[arg-type]


def train(name: str, *, form: Form = EAGER) -> tuple[QIN, tuple[float, float, float]]:
    model, params = make_variant(**VARIANTS[name]), plain_params(lr=0.01, gradient_clip=0.5)
    optimizer = build_optimizer(model, params, lr=0.01)
    step = TrainingStep(model, optimizer=optimizer, rows=rows(), params=params, hard_negatives=None, form=form)
    model.train()
    total = [0.0, 0.0]
    for number, batch in enumerate(batches()):
        step(batch, number=number)
        if step.is_read_due or number == STEPS - 1:
            loss, weight, last = step.read()
            total = [total[0] + loss, total[1] + weight]
    return model, (*total, last)  # type: ignore[return-value]


def distance(model: QIN, other: QIN) -> float:
    """Of the weights, over how far they have come."""
    start = make_variant(**_changes_of(model)).state_dict()
    ours, theirs = (one.state_dict() for one in (model, other))
    moved = sum(float((ours[key].double() - start[key].double()).square().sum()) for key in ours)
    apart = sum(float((ours[key].double() - theirs[key].double()).square().sum()) for key in ours)
    assert moved > 0.0
    return float((apart / moved) ** 0.5)


def _changes_of(model: QIN) -> dict[str, object]:
    return next(changes for changes in VARIANTS.values() if make_variant(**changes).sizes == model.sizes)


@pytest.mark.parametrize("name", ["dropout", "batch norm, dropout", "heads, recency", "sparse"])
def test_steps_as_a_gpu_makes_them_are_those_of_the_cpu(name: str) -> None:
    expected, figures = train(name)
    with as_other_devices():
        found, as_read = train(name)
    assert distance(expected, found) < 1e-4  # Adam divides a gradient near zero by its own size
    assert as_read == pytest.approx(figures, rel=1e-5)


@pytest.mark.parametrize("name", ["dropout", "batch norm, dropout", "everything beside"])
def test_a_recorded_step_gives_the_bytes_of_the_plain_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and keys come from their places: what is replayed here is the step with those alone."""
    replayed: list[int] = []

    def record(make: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            replayed.append(1)
            make()

        return replay

    monkeypatch.setattr("qin.train.step.record_on_gpu", record)
    with as_other_devices():
        expected, figures = train(name)
        found, as_read = train(name, form=RECORDED)
    assert len(replayed) == STEPS - recorded._WARM_UP_STEPS
    assert as_read == figures
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


def test_what_depends_on_the_rows_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qin.train.step.record_on_gpu", lambda make: pytest.fail("recorded"))
    with as_other_devices():
        train("sparse", form=RECORDED)


def test_a_batch_of_another_shape_is_made_as_it_is() -> None:
    seen: list[int] = []
    step = recorded.RecordedStep(lambda batch: seen.append(len(batch.rows)), CPU, record=lambda make: make)
    whole = batches()[0]
    for batch in [whole] * 5 + [whole.take(torch.arange(7)), whole]:
        step(batch)
    assert seen == [ROWS] * 5 + [7, ROWS]


def test_figures_tell_the_first_loss_that_is_not_finite() -> None:
    figures = StepFigures(CPU)
    for step, loss in enumerate((1.0, 2.0, float("inf"), 4.0, float("nan"))):
        figures.count(10 + step)
        figures.add(torch.tensor(loss), torch.tensor(3.0), batch_weight=2.0)
    with pytest.raises(TrainingError, match="the loss is inf at step 12; lower"):
        figures.read()


def test_figures_add_up_between_reads() -> None:
    figures = StepFigures(CPU)
    for step, loss in enumerate((1.0, 2.0, 4.0)):
        figures.count(step)
        figures.add(torch.tensor(loss), torch.tensor(3.0), batch_weight=2.0)
        if step == 1:
            assert figures.read() == (6.0, 6.0, 2.0)
    assert figures.read() == (8.0, 3.0, 4.0)
    assert figures.read() == (0.0, 0.0, 4.0)


def test_a_loop_that_reads_late_ends_and_keeps_nothing(tmp_path: Path) -> None:
    """A loss of the first steps is infinite; it is met before a checkpoint and by the end at the latest."""
    for params in (plain_params(lr=1e-3), plain_params(lr=1e-3, checkpoint_steps=2)):
        model = make_variant()
        with torch.no_grad():
            model.network.fc.bias.fill_(float("inf"))
        with as_other_devices(), pytest.raises(TrainingError, match=r"the loss is .* at step 0"):
            TrainingLoop(
                model,
                optimizer=build_optimizer(model, params, lr=1e-3),
                rows=rows(),
                params=params,
                hard_negatives=None,
                stop=Budget(num_steps=STEPS),
                checkpoints=CheckpointStore(tmp_path / "checkpoints", "run"),
                watch=Watch(),
            ).run()
        assert CheckpointStore(tmp_path / "checkpoints", "run").load() is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler looks at the gradients of all that it meets
@pytest.mark.parametrize("name", ["dropout", "batch norm, dropout", "heads, recency"])
def test_what_is_compiled_is_one_graph_for_all_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are read from tensors, so that no step compiles anew; what a graph cannot hold would be an error."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    compile_ = partial(torch.compile, backend=backend, fullgraph=True)
    with as_other_devices():
        expected, figures = train(name)
        monkeypatch.setattr("qin.train.forms.torch.compile", compile_)
        found, as_read = train(name, form=Form(compiled=True))
    assert len(compiled) == 3, "two attentions and the layers"
    assert as_read == figures
    assert distance(expected, found) < 1e-4
