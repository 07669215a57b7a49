"""The benchmark of the kernels runs, tiny, and its table has every line."""

import json
from pathlib import Path

import torch

from benchmarks import kernels
from benchmarks.gpu_cases import TINY, make_batch
from benchmarks.tables import _kernel_table
from qin.network.kernels.choice import has_kernels


def test_every_line_has_a_gain_and_the_table_all_of_them(tmp_path: Path, num_threads: None) -> None:
    before = torch.get_deterministic_debug_mode()
    try:
        kernels.main(threads=1, repeats=1, tiny=True, out=tmp_path / "kernels.json")
    finally:
        torch.set_deterministic_debug_mode(before)
    found = json.loads((tmp_path / "kernels.json").read_text())
    assert all(line["gain"] > 0.0 for line in found["lines"])
    names = {line["kernel"] for line in found["lines"]}
    table = _kernel_table(found)
    assert all(name in table for name in names)
    assert {line.get("profile") for line in found["lines"]} == {"default", "published", "any", None}
    assert has_kernels(torch.zeros(1)), "what is plain ends with its block"


def test_both_sides_of_a_line_compute_the_same() -> None:
    """Without dropout, whose masks differ by design."""
    case = kernels.Case(TINY, "default", 32, 16)
    batch, network = make_batch(TINY, num_rows=32), case.network(dropout=0.0)
    arguments = batch.categorical, batch.numeric, batch.sequences
    ours = network(*arguments)
    with kernels.plain_torch():
        plain = network(*arguments)
    torch.testing.assert_close(plain, ours, rtol=0.05, atol=0.02)
