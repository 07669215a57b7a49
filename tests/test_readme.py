"""The README's tables are what the benchmarks' results and the settings say."""

import pytest

from benchmarks.tables import README, tables
from qin.config import Params


@pytest.mark.parametrize("name", ["results", "ablation", "imbalance", "speed", "scale"])
def test_tables_are_made_from_the_results(name: str) -> None:
    assert tables()[name] in README.read_text()


def test_every_section_of_params_is_explained() -> None:
    text = README.read_text()
    missing = [name for name in Params.model_fields if f"| `{name}` |" not in text]
    assert missing == []
