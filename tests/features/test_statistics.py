"""Statistics of the train fold: which there are, what each row is given, and that no row is given its own click."""

from pathlib import Path

import numpy as np
import pytest

from qin.features import statistics as statistics_module
from qin.features.joined import JoinedRows
from qin.features.past import Earlier, OtherParts, Past
from qin.features.statistics import choose_statistics
from qin.metrics.definitions import AUC, Rows
from tests.features.logs import NUM_BUCKETS, bucket_schema, fit, write_buckets

NUM_ROWS, NUM_FITTED = 40_000, 30_000
BASE_RATE = 0.1


def random_clicks(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(NUM_ROWS) < BASE_RATE).astype(np.uint8)


def past_of(kind: str, *, fitted: np.ndarray | None = None) -> Past:
    rows = np.arange(NUM_FITTED) if fitted is None else fitted
    if kind == "earlier":
        return Earlier.of(np.arange(NUM_ROWS) // 3, None, rows, num_blocks=10)
    return OtherParts.of(np.random.default_rng(9).integers(0, 2**63, NUM_ROWS).astype(np.uint64), rows)


def auc(values: np.ndarray, label: np.ndarray) -> float:
    return AUC.statistic(Rows(values.astype(np.float32), label))


@pytest.mark.parametrize("kind", ["earlier", "other parts"])
@pytest.mark.parametrize("num_ids", [200, 5_000, NUM_ROWS])
def test_random_ids_gain_nothing(tmp_path: Path, kind: str, num_ids: int) -> None:
    """Neither on the fitted rows, where a leak would look like skill, nor on the others."""
    label = random_clicks(0)
    ids = np.random.default_rng(1).integers(2, 2 + num_ids, NUM_ROWS)
    reader = write_buckets(tmp_path / "log", {"ids": ids}, label)
    _, fitted = fit(tmp_path / "fit", reader, past_of(kind))
    rates = JoinedRows(reader, fitted).read("numeric", 0, NUM_ROWS)[:, 1]
    error = 1 / np.sqrt(12 * BASE_RATE)  # of an AUC of noise, times the square root of the rows
    assert abs(auc(rates[:NUM_FITTED], label[:NUM_FITTED]) - 0.5) < 4 * error / np.sqrt(NUM_FITTED)
    assert abs(auc(rates[NUM_FITTED:], label[NUM_FITTED:]) - 0.5) < 4 * error / np.sqrt(NUM_ROWS - NUM_FITTED)


def test_a_rate_that_sees_its_own_click_would_be_found_out(tmp_path: Path) -> None:
    """The test above has the power to see a leak: fitted on all rows, random ids rank their own clicks."""
    label = random_clicks(0)
    ids = np.random.default_rng(1).integers(2, 5_002, NUM_ROWS)
    reader = write_buckets(tmp_path / "log", {"ids": ids}, label)
    other = write_buckets(tmp_path / "other", {"ids": ids[::-1]}, label)  # looked up, so nothing is left out
    _, fitted = fit(tmp_path / "fit", reader, past_of("earlier", fitted=np.arange(NUM_ROWS)))
    assert auc(JoinedRows(other, fitted).read("numeric", 0, NUM_ROWS)[::-1, 1], label) > 0.65


@pytest.mark.parametrize("kind", ["earlier", "other parts"])
def test_unique_ids_say_nothing_at_all(tmp_path: Path, kind: str) -> None:
    ids = 2 + np.random.default_rng(2).permutation(NUM_ROWS)
    reader = write_buckets(tmp_path / "log", {"ids": ids, "shop": ids % 7 + 2}, random_clicks(3))
    report, fitted = fit(tmp_path / "fit", reader, past_of(kind), pairs=[("ids", "shop")])
    assert report.kept == ("stat.shop.rate", "stat.shop.share")
    assert set(report.dropped) == {
        f"stat.{name}.{measure}" for name in ("ids", "ids:shop") for measure in ("rate", "share")
    }
    assert set(report.dropped.values()) == {"constant"}
    assert fitted.names == report.kept


def test_signal_is_found_again_on_later_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    shop = generator.integers(2, 300, NUM_ROWS)
    skill = generator.normal(size=300)
    label = (generator.random(NUM_ROWS) < 1 / (1 + np.exp(2.2 - skill[shop]))).astype(np.uint8)
    reader = write_buckets(tmp_path / "log", {"shop": shop}, label)
    report, fitted = fit(tmp_path / "fit", reader, past_of("earlier"), max_psi=0.25)
    rates = JoinedRows(reader, fitted).read("numeric", 0, NUM_ROWS)[:, 1]
    assert "stat.shop.rate" in report.kept
    assert auc(rates[NUM_FITTED:], label[NUM_FITTED:]) > auc(skill[shop][NUM_FITTED:], label[NUM_FITTED:]) - 0.01


@pytest.mark.parametrize("kind", ["earlier", "other parts"])
def test_every_value_is_that_of_a_loop(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields and a pair, fitted rows and others, read in several blocks of fields and in any range."""
    monkeypatch.setattr(statistics_module, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(statistics_module, "_CHUNK_ROWS", 7)
    num_rows = 120
    generator = np.random.default_rng(5)
    columns = {name: generator.integers(1, 5, num_rows) for name in ("shop", "user", "item")}
    label = generator.integers(0, 2, num_rows).astype(np.uint8)
    fitted_rows = np.sort(generator.permutation(num_rows)[:90])
    time = generator.integers(0, 30, num_rows)
    units = generator.integers(0, 2**63, num_rows).astype(np.uint64)
    past = (
        Earlier.of(time, None, fitted_rows, num_blocks=NUM_ROWS)
        if kind == "earlier"
        else OtherParts.of(units, fitted_rows)
    )
    reader = write_buckets(tmp_path / "log", columns, label)
    _, fitted = fit(tmp_path / "fit", reader, past, pairs=[("user", "item")])
    read = JoinedRows(reader, fitted).read("numeric", 0, num_rows)
    base, seen = label[fitted_rows].mean(), set(fitted_rows.tolist())
    for number, fields in enumerate([("shop",), ("user",), ("item",), ("user", "item")]):
        keys = list(zip(*(columns[name].tolist() for name in fields), strict=True))
        for row in range(num_rows):
            if row not in seen:
                known = fitted_rows
            elif isinstance(past, OtherParts):
                known = np.array([other for other in fitted_rows if past.part[other] != past.part[row]])
            else:
                known = np.array([other for other in fitted_rows if time[other] < time[row]], np.int64)
            same = [other for other in known if keys[other] == keys[row]]
            rate = (label[same].sum() + 20 * base) / (len(same) + 20)
            expected = np.log(rate / (1 - rate)) - np.log(base / (1 - base)), 1e4 * len(same) / (len(known) + 100)
            assert read[row, 1 + 2 * number : 3 + 2 * number] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_its_own_and_later_clicks_change_nothing(tmp_path: Path) -> None:
    """Two clicks change places: rows up to the earlier one, and those of its time, are given what they were."""
    label, time = random_clicks(6), np.arange(NUM_ROWS) // 3
    ids = np.random.default_rng(6).integers(2, 50, NUM_ROWS)
    first, later = int(np.flatnonzero(label == 1)[40]), int(np.flatnonzero(label == 0)[9000])
    changed = label.copy()
    changed[[first, later]] = changed[[later, first]]
    read = []
    for name, clicks in (("as it was", label), ("changed", changed)):
        reader = write_buckets(tmp_path / name / "log", {"ids": ids}, clicks)
        fit_of = fit(
            tmp_path / name / "fit", reader, Earlier.of(time, None, np.arange(NUM_FITTED), num_blocks=NUM_ROWS)
        )[1]
        read.append(JoinedRows(reader, fit_of).read("numeric", 0, NUM_ROWS)[:, 1])
    is_same = read[0] == read[1]
    assert is_same[time <= time[first]].all()
    assert not is_same[(time > time[first]) & (time <= time[later]) & (ids == ids[first])].any()


def test_a_measure_that_drifts_is_dropped_and_named(tmp_path: Path) -> None:
    generator, late = np.random.default_rng(7), np.arange(NUM_ROWS) > 0.75 * NUM_FITTED
    steady = generator.integers(2, 12, NUM_ROWS)
    newcomers = generator.integers(2, 12, NUM_ROWS) + np.where(late, 10, 0)
    turning = generator.integers(2, 12, NUM_ROWS)
    skill = generator.normal(size=22) * 0.7
    logit = skill[steady] + np.where(late, -2, 1) * skill[turning] - 1
    label = (generator.random(NUM_ROWS) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    columns = {"steady": steady, "newcomers": newcomers, "turning": turning}
    reader = write_buckets(tmp_path / "log", columns, label)
    report, fitted = fit(tmp_path / "fit", reader, past_of("earlier"), max_psi=0.25)
    assert "distribution moved" in report.dropped["stat.newcomers.share"]
    assert "moved" in report.dropped["stat.turning.rate"]
    assert "stat.steady.rate" in fitted.names
    assert len(fit(tmp_path / "again", reader, past_of("earlier"))[1].names) == 6  # the guard is off


def test_statistics_are_by_field_and_by_user_and_target() -> None:
    schema = bucket_schema("user", "shop", "item", target=("item", "shop"))
    chosen = choose_statistics(schema, patterns=None, pairs=None, user="user")
    fields = [("user",), ("shop",), ("item",)]
    assert [statistic.fields for statistic in chosen] == [*fields, ("user", "item"), ("user", "shop")]
    assert [s.fields for s in choose_statistics(schema, patterns=None, pairs=None, user="session")] == fields
    chosen = choose_statistics(schema, patterns=["s*"], pairs=[["shop", "item"]], user="user")
    assert [name for statistic in chosen for name in statistic.names] == [
        "stat.shop.rate",
        "stat.shop.share",
        "stat.shop:item.rate",
        "stat.shop:item.share",
    ]


def test_the_largest_pair_of_buckets_has_a_key_of_its_own(tmp_path: Path) -> None:
    buckets = np.array([NUM_BUCKETS - 1, NUM_BUCKETS - 1, 2, 2] * 30)
    others = np.array([NUM_BUCKETS - 1, 2, NUM_BUCKETS - 1, 2] * 30)
    label = np.array([1, 0, 0, 0] * 30, np.uint8)
    reader = write_buckets(tmp_path / "log", {"shop": buckets, "item": others}, label)
    _, fitted = fit(
        tmp_path / "fit",
        reader,
        Earlier.of(np.arange(120), None, np.arange(100), num_blocks=10),
        pairs=[("shop", "item")],
    )
    rates = JoinedRows(reader, fitted).read("numeric", 100, 120)[:, 1 + fitted.names.index("stat.shop:item.rate")]
    assert (rates > 0).tolist() == [True, False, False, False] * 5
