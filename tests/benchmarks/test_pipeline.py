"""The table of the whole way: every stage that ran, their sums, and DVC's own time around them."""

from benchmarks.tables import _pipeline_table


def test_stages_are_added_up_and_dvcs_own_time_stands_beside_them() -> None:
    def run(prepare: float, train: float, seconds: float) -> dict[str, object]:
        stages = {"prepare": prepare, "train": train}
        closing = {name: {"seconds": took, "peak_memory_bytes": 2**30} for name, took in stages.items()}
        return {"seconds": seconds, "stages": closing}

    runs = {"first": run(9.0, 20.0, 40.0), "again": run(2.0, 20.5, 30.0), "nothing to do": {"seconds": 1.25}}
    _, _, *rows = _pipeline_table(runs).splitlines()
    assert rows[:3] == [
        "| prepare | 9.0 | 2.0 | 1.00 |",
        "| train | 20.0 | 20.5 | 1.00 |",
        "| all stages | 29.0 | 22.5 |  |",
    ]
    assert rows[3].endswith("| 40.0 | 30.0 |  |")
    assert rows[4].endswith("|  | 1.2 |  |")
