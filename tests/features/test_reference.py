"""What fitted rows looked like: counts that a naive loop finds, kept through a file."""

from pathlib import Path

import numpy as np
import pytest

from qin.features.reference import REFERENCE, Reference, ValueCounter, fit_reference
from qin.features.scale import signed_log
from qin.runtime.errors import ArtifactError
from qin.shards.files import ShardReader
from qin.shards.folds import TRAIN, VALIDATION
from tests.planted import SCHEMA, write_planted

NUM_ROWS = 3000
FOLD = np.random.default_rng(1).choice([TRAIN, VALIDATION, 2], NUM_ROWS, p=[0.6, 0.3, 0.1]).astype(np.uint8)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("reference") / "log", num_rows=NUM_ROWS)


@pytest.mark.parametrize("with_validation", [True, False])
def test_it_counts_what_a_loop_counts(reader: ShardReader, with_validation: bool) -> None:
    found = fit_reference(reader, FOLD, with_validation=with_validation)
    fitted = FOLD != 2 if with_validation else FOLD == TRAIN
    buckets = reader.read("categorical", 0, NUM_ROWS)
    items = {field.name: reader.read(f"sequence.{field.name}", 0, NUM_ROWS) for field in SCHEMA.sequences}
    for name, used in found.used.items():
        expected: set[int] = set()
        for column, field in enumerate(SCHEMA.categorical):
            if field.vocabulary == name:
                expected |= set(buckets[fitted, column].tolist())
        for field in SCHEMA.sequences:
            if field.vocabulary == name:
                expected |= set(items[field.name][fitted].ravel().tolist())
        assert set(np.flatnonzero(used).tolist()) == expected
    assert found.num_rows == fitted.sum()
    assert found.num_held == (FOLD == VALIDATION).sum()
    numbers = reader.read("numeric", 0, NUM_ROWS)[fitted]
    for column, field in enumerate(SCHEMA.numeric):
        known = found.numbers[field.name]
        values = signed_log(numbers[:, column][~np.isnan(numbers[:, column])])
        assert known.null_share == pytest.approx(np.isnan(numbers[:, column]).mean())
        assert known.mean == pytest.approx(values.mean())
        assert known.std == pytest.approx(values.std())
        assert sum(known.counts) == values.size
        assert len(known.counts) == len(known.cuts) + 1
    for field in SCHEMA.sequences:
        kept = (items[field.name][fitted] > 1).sum(axis=1)
        assert found.mean_length[field.name] == pytest.approx(kept.mean())


def test_it_is_the_same_after_a_file_and_a_damaged_one_is_refused(reader: ShardReader, tmp_path: Path) -> None:
    found = fit_reference(reader, FOLD, with_validation=True)
    found.write(tmp_path)
    again = Reference.read(tmp_path)
    for name, used in found.used.items():
        assert np.array_equal(again.used[name], used)
    assert again.numbers == found.numbers
    assert (again.new_share, again.null_share, again.mean_length) == (
        found.new_share,
        found.null_share,
        found.mean_length,
    )
    file = tmp_path / REFERENCE
    file.write_text(file.read_text().replace('"num_rows"', '"num_row"'))
    with pytest.raises(ArtifactError, match="its checksum is not that of its content"):
        Reference.read(tmp_path)


def test_new_values_that_share_a_known_bucket_are_counted_in() -> None:
    """Half of all buckets are known, so half of the new values look known; the share says all the same."""
    [field, *_] = SCHEMA.categorical
    size, generator = field.num_buckets, np.random.default_rng(0)
    used = {name: np.zeros(number, np.bool_) for name, number in SCHEMA.vocabularies.items()}
    used[field.vocabulary][2::2] = True
    known = 2 + 2 * generator.integers(0, (size - 2) // 2, 8000)
    new = generator.integers(2, size, 2000)  # hashes of values never seen, anywhere
    column = np.concatenate([known, new])
    counter = ValueCounter(SCHEMA, used)
    arrays = {"categorical": np.ones((column.size, len(SCHEMA.categorical)), np.int64)}
    arrays["categorical"][:, 0] = column
    arrays |= {f"sequence.{one.name}": np.zeros((column.size, one.max_len), np.int64) for one in SCHEMA.sequences}
    counter.update(arrays)
    assert counter.new_share(field) == pytest.approx(0.2, abs=0.02)
    assert counter.null_share(SCHEMA.categorical[1]) == 1.0
    used[field.vocabulary][:] = True
    assert counter.new_share(field) is None
