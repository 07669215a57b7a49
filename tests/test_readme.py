"""The README's tables are what the benchmarks' results and the settings say."""

from benchmarks.tables import README, results_table
from qin.config import Params


def test_results_table_is_made_from_the_results() -> None:
    assert results_table() in README.read_text()


def test_every_section_of_params_is_explained() -> None:
    text = README.read_text()
    missing = [name for name in Params.model_fields if f"| `{name}` |" not in text]
    assert missing == []
