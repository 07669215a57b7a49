"""Everything that a GPU is to be asked when one is at hand, in one run of at most eight minutes.

    python -m benchmarks.gpu --out DIR

Needs NumPy, Numba, PyTorch and PyArrow; neither DVC nor pydantic. Each section has a guard and a limit of time: what
fails is told with its traceback in `gpu.json`, and the rest goes on. Without a GPU, `--tiny` runs all of it that there
is on the CPU, which then computes as a GPU does (`qin.network.kernels.choice.as_other_devices`).
"""

import argparse
import json
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu_cases import (
    REFERENCE,
    TINY,
    VARIANTS,
    InMemory,
    Shape,
    make_batch,
    make_network,
    make_step,
    on,
    train_params,
    training_rows,
    widened,
)

import numpy as np  # isort: skip  # after the stand-in for the settings
import torch  # isort: skip

from qin.metrics.definitions import AUC, Rows, values  # isort: skip
from qin.model.scoring import score_all  # isort: skip
from qin.network.kernels.choice import as_other_devices  # isort: skip
from qin.network.qin import QIN  # isort: skip
from qin.network.threads import fix_threads  # isort: skip
from qin.shards.device import prefetched  # isort: skip
from qin.shards.loader import Batch  # isort: skip
from qin.train.build import build_optimizer  # isort: skip
from qin.train.checkpoint import CheckpointStore  # isort: skip
from qin.train.forms import EAGER, Form  # isort: skip
from qin.train.loop import Budget, TrainingLoop  # isort: skip
from qin.train.watch import SILENT  # isort: skip

FORMS = {
    "eager": EAGER,
    "recorded": Form(recorded=True),
    "compiled": Form(compiled=True),
    "compiled recorded": Form(compiled=True, recorded=True),
}
TABLES: dict[str, dict[str, Any]] = {"dense": {}, "sparse": {"sparse_embedding_grad": True}}
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        device: That computes.
        shape: Of the rows.
        batch_sizes: Of the throughput.
        num_rows: Of accuracy, loaders and scoring.
        num_steps: Timed steps.
        seconds: Limit of all sections together; none begins after it.
    """

    device: torch.device
    shape: Shape
    batch_sizes: tuple[int, ...]
    num_rows: int
    num_steps: int
    seconds: float

    @property
    def has_gpu(self) -> bool:
        """Whether the device is one."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.has_gpu:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], *, repeats: int = 5) -> float:
        """Median seconds of a call, after one that does not count."""
        work()
        self.wait()
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - started)
        return median(seconds)


def ceilings(plan: Plan) -> dict[str, float]:
    """The best that the device does: a large copy, products of all sizes, and whether a padded width matters."""
    size = 8192 if plan.has_gpu else 128
    source, target = torch.ones(2, size * size, device=plan.device)
    found = {"copy_bytes_per_second": 2 * source.nbytes / plan.timed(lambda: target.copy_(source))}
    tall = plan.batch_sizes[-1]
    shapes = {"square": (size, size, size), "832": (tall, 832, 832), "828": (tall, 828, 828)}
    for name, (rows, inner, columns) in shapes.items():
        for dtype in (torch.bfloat16, torch.float32):
            a = torch.ones(rows, inner, dtype=dtype, device=plan.device)
            b = torch.ones(inner, columns, dtype=dtype, device=plan.device)
            seconds = plan.timed(lambda a=a, b=b: a @ b)  # type: ignore[misc]
            found[f"{name}_{str(dtype)[6:]}_flops_per_second"] = 2 * rows * inner * columns / seconds
    return found


def parity(plan: Plan) -> dict[str, Any]:
    """Distance of logits and gradients from the CPU's in float64, by variant, over the norm; masks are the same."""
    batch = make_batch(plan.shape, num_rows=min(plan.num_rows, 256))
    return {name: _distances(plan, batch, changes) for name, changes in VARIANTS.items()}


def _distances(plan: Plan, batch: Batch, changes: dict[str, Any]) -> dict[str, float]:
    reference = make_network(plan.shape, **changes).double()
    for module in reference.modules():
        if isinstance(module, torch.nn.RMSNorm):
            module.eps = torch.finfo(torch.float32).eps  # its default is that of the type
    expected = _pass(reference, batch)
    found = {}
    for precision in ("float32", "bfloat16"):
        network = make_network(plan.shape, **changes).to(plan.device)
        network.use_bf16 = precision == "bfloat16"
        logit, grad = _pass(network, on(batch, plan.device))
        found[f"logit_{precision}"] = float((logit - expected[0]).norm() / expected[0].norm())
        found[f"gradient_{precision}"] = float((grad - expected[1]).norm() / expected[1].norm())
    return found


def _pass(network: QIN, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    network.train()
    torch.manual_seed(3)
    is_wide = next(network.parameters()).dtype == torch.float64
    logit = network(batch.categorical, batch.numeric.double() if is_wide else batch.numeric, batch.sequences)
    (logit * torch.linspace(-0.5, 1.0, len(logit), device=logit.device)).sum().backward()
    grads = [p.grad.to_dense().reshape(-1) for p in network.parameters() if p.grad is not None]
    return logit.detach().cpu().double(), torch.cat(grads).cpu().double()


def determinism(plan: Plan) -> dict[str, Any]:
    """Whether two runs have the same bytes, by form and kind of table, and whether one that was resumed has them."""
    found = {}
    for name, form in _forms(plan).items():
        for kind, changes in TABLES.items():
            if kind == "sparse" and form != EAGER:
                continue
            weights = [_weights(_steps(plan, form, changes)) for _ in range(2)]
            found[f"{name}, {kind}"] = bool(torch.equal(*weights))
    whole, resumed = _weights(_run(plan, stops=False)), _weights(_run(plan, stops=True))
    return {"repeats": found, "resumed": bool(torch.equal(whole, resumed))}


def _forms(plan: Plan) -> dict[str, Form]:
    return FORMS if plan.has_gpu else {"eager": EAGER}


def _weights(network: QIN) -> torch.Tensor:
    return torch.cat([value.reshape(-1).double().cpu() for value in network.state_dict().values()])


def _steps(plan: Plan, form: Form, changes: dict[str, Any]) -> QIN:
    rows = on(make_batch(plan.shape, num_rows=plan.batch_sizes[0]), plan.device)
    network = make_network(plan.shape, **changes).to(plan.device)
    network.use_bf16 = plan.has_gpu
    step = make_step(network, rows, batch_size=len(rows.rows), form=form)
    network.train()
    for number in range(plan.num_steps):
        step(rows, number=number)
    step.read()
    return network


class _StoppedError(Exception):
    """In the middle of a run."""


class _Stopping(InMemory):
    """Ends a run after half of its batches."""

    def epoch(self, *arguments: Any, **options: Any) -> Iterator[Batch]:
        """As of `InMemory`, to the middle."""
        batches = list(super().epoch(*arguments, **options))
        yield from batches[: len(batches) // 2 + 1]
        raise _StoppedError


def _run(plan: Plan, *, stops: bool) -> QIN:
    """A run of the training loop; with `stops` one that dies half-way and goes on from its checkpoint."""
    batch_size, num_batches = plan.batch_sizes[0] // 2, 10
    rows = on(make_batch(plan.shape, num_rows=num_batches * batch_size), plan.device)
    params = train_params(checkpoint_steps=2)
    with TemporaryDirectory() as folder:
        for source in ([_Stopping] if stops else []) + [InMemory]:
            network = make_network(plan.shape).to(plan.device)
            loop = TrainingLoop(
                network,
                optimizer=build_optimizer(network, params, lr=1e-3),
                rows=training_rows(source(rows, batch_size=batch_size), rows),
                params=params,
                hard_negatives=None,
                stop=Budget(num_steps=num_batches),
                checkpoints=CheckpointStore(Path(folder), "run"),
                watch=SILENT,
            )
            try:
                loop.run()
            except _StoppedError:
                assert source is _Stopping, "only the first run stops"
    return network


def accuracy(plan: Plan) -> dict[str, float]:
    """AUC on other rows after an epoch on the device, and on the CPU with its kernels."""
    batch_size = min(1024, plan.num_rows // 8)
    train, test = (make_batch(plan.shape, num_rows=plan.num_rows // share, seed=share) for share in (1, 4))
    found = {}
    for name, device in (("device", plan.device), ("cpu", _CPU)):
        with nullcontext() if plan.has_gpu or name == "cpu" else as_other_devices():
            network, rows = make_network(plan.shape).to(device), on(train, device)
            step = make_step(network, rows, batch_size=batch_size)
            network.train()
            for number, batch in enumerate(rows.pieces(batch_size)):
                step(batch, number=number)
            step.read()
            logit = score_all(network, test.pieces(batch_size), num_rows=len(test.rows))
        assert test.label is not None
        found[name] = values((AUC,), Rows(logit, test.label.numpy().astype(np.uint8)))["auc"]
    return {**found, "difference": found["device"] - found["cpu"]}


def throughput(plan: Plan) -> list[dict[str, Any]]:
    """Rows per second and peak memory of training steps, by batch size, form and kind of table."""
    found, started = [], time.monotonic()
    for batch_size in plan.batch_sizes:
        for kind, changes in TABLES.items():
            shape = plan.shape if kind == "dense" or not plan.has_gpu else widened(plan.shape, table_rows=2_700_000)
            rows = on(make_batch(shape, num_rows=batch_size), plan.device)
            for name, form in _forms(plan).items():
                if kind == "sparse" and form.recorded:  # which is made eagerly
                    continue
                entry = {"batch_size": batch_size, "table": kind, "form": name}
                if time.monotonic() - started > plan.seconds / 2:
                    found.append({**entry, "skipped": "the time was over"})
                    continue
                found.append({**entry, **_guarded(lambda: _rate(plan, shape, rows, form, changes))})  # noqa: B023
    return found


def _rate(plan: Plan, shape: Shape, rows: Batch, form: Form, changes: dict[str, Any]) -> dict[str, float]:
    if plan.has_gpu:
        torch.compiler.reset()  # or another network's code would count as one form too many
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    network = make_network(shape, **changes).to(plan.device)
    network.use_bf16 = plan.has_gpu
    step = make_step(network, rows, batch_size=len(rows.rows), form=form)
    network.train()
    for number in range(5):
        step(rows, number=number)
    plan.wait()
    started = time.perf_counter()
    for number in range(5, 5 + plan.num_steps):
        step(rows, number=number)
    launched = time.perf_counter() - started
    plan.wait()
    seconds = time.perf_counter() - started
    step.read()
    memory = torch.cuda.max_memory_allocated() if plan.has_gpu else 0
    num_rows = plan.num_steps * len(rows.rows)
    return {"rows_per_second": num_rows / seconds, "host_share": launched / seconds, "peak_gpu_bytes": memory}


def profile(plan: Plan) -> dict[str, Any]:
    """The operations that take most of the device's time in a step of each form."""
    batch_size, found = plan.batch_sizes[len(plan.batch_sizes) // 2], {}
    rows = on(make_batch(plan.shape, num_rows=batch_size), plan.device)
    for name, form in _forms(plan).items():
        network = make_network(plan.shape).to(plan.device)
        network.use_bf16 = plan.has_gpu
        step = make_step(network, rows, batch_size=batch_size, form=form)
        network.train()
        for number in range(6):
            step(rows, number=number)
        kinds = torch.profiler.ProfilerActivity
        activities = [kinds.CPU, *([kinds.CUDA] if plan.has_gpu else [])]
        with torch.profiler.profile(activities=activities) as record:
            step(rows, number=6)
            plan.wait()
        of_device = "self_device_time_total" if plan.has_gpu else "self_cpu_time_total"
        events = sorted(record.key_averages(), key=lambda event: -getattr(event, of_device))
        found[name] = {event.key[:80]: [event.count, getattr(event, of_device)] for event in events[:20]}
    return found


def loading_and_scoring(plan: Plan) -> dict[str, float]:
    """Rows per second to the device with a thread that copies ahead, gathered on it, and scored."""
    rows, batch_size = make_batch(plan.shape, num_rows=plan.num_rows), plan.batch_sizes[0]

    def copied() -> None:
        for _ in prefetched(rows.pieces(batch_size), plan.device):
            pass

    resident, order = on(rows, plan.device), torch.randperm(plan.num_rows)

    def gathered() -> None:
        for index in torch.split(order, batch_size):
            for tensor in resident.tensors:
                tensor.index_select(0, index.to(plan.device))

    network = make_network(plan.shape).to(plan.device).eval()
    found = {"prefetched": plan.num_rows / plan.timed(copied, repeats=3)}
    found["resident"] = plan.num_rows / plan.timed(gathered, repeats=3)
    for precision in ("float32", "bfloat16"):
        network.use_bf16 = precision == "bfloat16"
        seconds = plan.timed(lambda: score_all(network, rows.pieces(8192), num_rows=plan.num_rows), repeats=3)
        found[f"scored_{precision}"] = plan.num_rows / seconds
    return found


SECTIONS: dict[str, Callable[[Plan], Any]] = {
    "ceilings": ceilings,
    "parity": parity,
    "determinism": determinism,
    "throughput": throughput,
    "loading_and_scoring": loading_and_scoring,
    "profile": profile,
    "accuracy": accuracy,
}


def _guarded(work: Callable[[], Any]) -> Any:
    """What a piece of work finds, or what it fails with: the rest is to go on."""
    try:
        return work()
    except Exception as error:  # a first run on a GPU may fail anywhere, and each failure is to be told
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def describe(plan: Plan) -> dict[str, Any]:
    """The machine and the versions."""
    name = torch.cuda.get_device_name() if plan.has_gpu else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """Run every section while there is time, and write what is known after each."""
    fix_threads(torch.get_num_threads())
    started, found = time.monotonic(), {"machine": describe(plan)}
    for name, section in SECTIONS.items():
        began = time.monotonic()
        if began - started > plan.seconds:
            found[name] = {"skipped": "the time was over"}
        else:
            with nullcontext() if plan.has_gpu or name == "accuracy" else as_other_devices():
                result = _guarded(lambda: section(plan))  # noqa: B023
            found[name] = {"seconds": time.monotonic() - began, "result": result}
            print(f"{name}: {time.monotonic() - began:.1f} s", json.dumps(result)[:2000], flush=True)
        (out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Folder for gpu.json.")
    parser.add_argument("--tiny", action="store_true", help="Tiny sizes on the CPU.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.tiny:
        plan = Plan(_CPU, TINY, batch_sizes=(16, 32), num_rows=160, num_steps=3, seconds=400.0)
    else:
        sizes = (1024, 4096, 16384, 65536)
        plan = Plan(torch.device("cuda"), REFERENCE, batch_sizes=sizes, num_rows=1 << 18, num_steps=20, seconds=400.0)
    found = run(plan, arguments.out)
    failed = [name for name in SECTIONS if "error" in json.dumps(found[name])]
    raise SystemExit(f"failed in part: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
