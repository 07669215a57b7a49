"""What each column of a log is taken for, and why."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from qin.columns.types import may_differ
from qin.raw.hashing import HashedColumn, hash_column, hash_rows, seed_of
from qin.runtime.errors import SchemaError
from qin.setup import keys
from qin.setup.kinds import buckets_for, is_measure, is_place_of_item, kind_of, values_of
from qin.setup.outcome import LEAK, SUSPICIOUS, Ask, Label, choose_label, is_other_label, told_by
from qin.setup.profile import LogProfile
from qin.setup.tokens import Shared, Tokens, find_tokens, shared_column

_FEWEST_KEYS, _MOST_KEYS = 3, 8


@dataclass(frozen=True)
class Role:
    """What a column is taken for.

    Attributes:
        kind: `label`, `id`, `drop`, `ignore`, `categorical`, `numeric` or `sequence`.
        reason: Why.
        is_guess: Whether a person should look.
    """

    kind: str
    reason: str
    is_guess: bool = False


@dataclass(frozen=True)
class Sequence:
    """A history and whose vocabulary it has.

    Attributes:
        tokens: How its cells divide.
        shared: The column whose values it holds; None where it has a vocabulary of its own.
    """

    tokens: Tokens
    shared: Shared | None


@dataclass
class Plan:
    """What settings are made from.

    Attributes:
        label: The column to predict.
        id: The column that names a row of test, and why it.
        roles: What each column of train is, in the file's order.
        sequences: The histories.
        target: Columns of the target item.
        attributes: Columns of which every target item has one value.
        is_target_guessed: Whether neither a history nor a name told the target.
        time: Column that tells when; None without.
        user: Column of the user; None without.
        session: Column of the session; None without.
        together: What was counted of rows that may have been shown together, the first that looks so in front.
        row_key: Columns that identify a row.
        buckets: Of each categorical column and each history of its own vocabulary.
    """

    label: Label
    id: tuple[str, Role]
    roles: dict[str, Role]
    sequences: list[Sequence] = field(default_factory=list)
    target: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    is_target_guessed: bool = False
    time: str | None = None
    user: str | None = None
    session: str | None = None
    together: list[keys.Together] = field(default_factory=list)
    row_key: list[str] = field(default_factory=list)
    buckets: dict[str, int] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[str]:
        """Columns taken for something, in order."""
        return [name for name, role in self.roles.items() if role.kind == kind]

    @property
    def impression(self) -> keys.Together | None:
        """Rows that were shown together; None where none look so."""
        return next((found for found in self.together if found.is_impression), None)

    @property
    def places(self) -> list[str]:
        """Categorical columns that are an item's place among others."""
        return [name for name in self.of_kind("categorical") if is_place_of_item(name)]

    @property
    def method(self) -> str:
        """How to divide rows into folds."""
        return "time" if self.time else "group_user" if self.user else "stratified"


def plan_settings(
    log: LogProfile,
    *,
    label: str | None,
    test: pa.Schema | None,
    submission: Collection[str],
    ask: Ask | None,
) -> Plan:
    """Decide what each column is; each step leaves to the next what it does not know.

    1. The label and the id, then what no model may or can read.
    2. Keys and the time; histories, and the columns whose values they hold.
    3. All other columns by their values, then by the families of names they belong to.
    4. Of what all have become: columns that tell the label are dropped, and the target is found.
    5. What rows share that were shown together, what tells rows apart, and sizes of vocabularies.

    Args:
        log: The train file.
        label: The user's word on the label; None to find it.
        test: Columns of the test file; None without one.
        submission: Columns of the sample submission, in order; empty without one.
        ask: Asks the user to choose; None where nobody can be asked.

    Raises:
        SchemaError: If there is no label, or nothing to predict it from.
    """
    names = list(test.names) if test is not None else []
    chosen = choose_label(log, wanted=label, test=names, submission=submission, ask=ask)
    plan = Plan(chosen, _find_id(log, names, submission), {})
    roles = {chosen.name: Role("label", chosen.reason, not chosen.is_sure)}
    if plan.id[0] in log.columns:
        roles[plan.id[0]] = Role("id", plan.id[1].reason)
    _leave_out(log, roles, chosen, test=test)
    _find_keys(log, plan, roles)
    _find_sequences(log, plan, roles)
    for name, column in log.columns.items():
        if name not in roles:
            roles[name] = Role(*kind_of(log, column))
    _follow_families(log, roles)
    _drop_leaks(log, plan, roles, is_in_test=test is not None)
    plan.roles = {name: roles[name] for name in log.columns}
    _find_target(log, plan)
    plan.together = _rows_together(log, plan, names)
    plan.row_key = _row_key(log, plan)
    _size_buckets(log, plan)
    return plan


def _find_id(log: LogProfile, test: list[str], submission: Collection[str]) -> tuple[str, Role]:
    first = next(iter(submission), None)
    if first is not None and (not test or first in test):
        return first, Role("id", "the first column of the sample submission")
    alone = [name for name in test if name not in log.columns]
    if alone:
        return alone[0], Role("id", "in test alone", len(alone) > 1)
    rows = [
        c.name for c in log.columns.values() if c.name.lower() in ("id", "row_id", "rowid", "index") and c.names_rows
    ]
    if rows:
        return rows[0], Role("id", "every row has a value of its own")
    return "ID", Role("id", "no file tells: the column of test that names a row", is_guess=True)


def _leave_out(log: LogProfile, roles: dict[str, Role], label: Label, *, test: pa.Schema | None) -> None:
    """Columns that no model may or can read."""
    for name, column in log.columns.items():
        if name in roles:
            continue
        if test is not None and name not in test.names:
            is_outcome = name in label.others
            roles[name] = Role("drop", "not in test" + (", another label of the same row" if is_outcome else ""))
        elif test is not None and may_differ(test.field(name).type, log.sample.schema.field(name).type):
            kinds = f"{log.sample.schema.field(name).type} here, {test.field(name).type} in test"
            roles[name] = Role("drop", f"{kinds}: equal values would be encoded apart; store both as one type", True)
        elif column.num_nulls == column.num_rows:
            roles[name] = Role("drop", "always missing")
        # With more nulls it says whether there is a value, which may be worth something.
        elif column.distinct == 1 and column.num_nulls < 0.01 * column.num_rows:
            but = f" but for {column.num_nulls:,} missing" if column.num_nulls else ""
            roles[name] = Role("drop", f"constant{but}")
        elif test is None and is_other_label(log, name):
            roles[name] = Role(
                "drop", "named as an outcome: it would tell the label, if it is one of the same row", True
            )


def _drop_leaks(log: LogProfile, plan: Plan, roles: dict[str, Role], *, is_in_test: bool) -> None:
    for name, role in roles.items():
        if role.kind not in ("categorical", "numeric"):
            continue
        told = told_by(log, name, plan.label.name)
        if told >= LEAK or (told >= SUSPICIOUS and not is_in_test):
            roles[name] = Role(
                "drop", f"tells the label all but surely (AUC {told:.3f} alone): known only afterwards?", True
            )
        # In test, it is known before the outcome at least there, so it is kept and marked.
        elif told >= SUSPICIOUS:
            roles[name] = Role(role.kind, f"{role.reason}; tells the label (AUC {told:.3f} alone): known before?", True)


def _follow_families(log: LogProfile, roles: dict[str, Role]) -> None:
    """Whole numbers of which nothing tells what they are follow most of the columns that are named like them."""
    families: dict[str, list[str]] = {}
    for name in log.columns:
        families.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    for family, names in families.items():
        sure = [roles[name].kind for name in names if not roles[name].is_guess]
        kind, count = Counter(sure).most_common(1)[0] if sure else ("", 0)
        # At least three of a name, and most of them: a family that is divided says nothing.
        if kind not in ("categorical", "numeric") or count < 3 or count < 0.7 * len(sure):
            continue
        for name in names:
            role = roles[name]
            if role.is_guess and role.kind in ("categorical", "numeric"):
                reason = f"whole numbers, {values_of(log.columns[name])}; {kind}, as most of {family} are"
                roles[name] = Role(kind, reason, is_guess=True)


def _find_keys(log: LogProfile, plan: Plan, roles: dict[str, Role]) -> None:
    free = [column for name, column in log.columns.items() if name not in roles]
    times = [name for name in keys.find_times(log) if name not in roles]
    if times:
        plan.time = times[0]
        also = f"; {', '.join(times[1:])} could be meant, too" if len(times) > 1 else ""
        roles[plan.time] = Role("ignore", f"the time: divides the folds, is no input{also}", bool(also))
    others = [column for column in free if column.name != plan.time]
    plan.user = keys.first_named(keys.USER, others)
    plan.session = keys.first_named(keys.SESSION, [column for column in others if column.name != plan.user])
    if plan.user is not None:
        roles[plan.user] = Role("categorical", f"the user, {values_of(log.columns[plan.user])}")
    if plan.session is not None:
        roles[plan.session] = Role("ignore", "the session: a new one says nothing, so it is no input")


def _find_sequences(log: LogProfile, plan: Plan, roles: dict[str, Role]) -> None:
    free = {name: tokens for name, tokens in find_tokens(log).items() if name not in roles}
    columns = [
        column
        for name, column in log.columns.items()
        if name not in free
        and (name not in roles or roles[name].kind == "categorical")
        and not (column.is_fraction or column.is_datetime or is_measure(name))
    ]
    for name, tokens in free.items():
        shared = shared_column(log, tokens, columns)
        plan.sequences.append(Sequence(tokens, shared))
        whose = f"{shared.share:.0%} of them values of {shared.column}" if shared else "a vocabulary of its own"
        roles[name] = Role("sequence", f"{tokens.shape}; {whose}", shared is not None and shared.is_guess)
        if shared is not None and shared.column not in roles:
            roles[shared.column] = Role("categorical", f"{values_of(log.columns[shared.column])}, those of {name}")


def _find_target(log: LogProfile, plan: Plan) -> None:
    categorical = plan.of_kind("categorical")
    if not categorical:
        categorical = _make_categorical(log, plan)
    shared = [one.shared for one in plan.sequences if one.shared and one.shared.column != plan.user]
    sure = [one.column for one in shared if not one.is_guess] or [one.column for one in shared]
    plan.target = [name for name in dict.fromkeys(sure) if name in categorical]
    others = [name for name in categorical if name != plan.user] or categorical
    if not plan.target:
        named = keys.first_named(keys.ITEM, [log.columns[name] for name in others])
        plan.is_target_guessed = named is None
        plan.target = [named or max(others, key=lambda name: log.columns[name].distinct)]
    plan.attributes = [name for name in others if name not in plan.target and _is_attribute(log, plan.target[0], name)]


def _make_categorical(log: LogProfile, plan: Plan) -> list[str]:
    """The target needs a category: of numbers alone, those with the fewest values are taken for one."""
    numeric = plan.of_kind("numeric")
    if not numeric:
        raise SchemaError(f"{log.file}: no column is left that the label could be predicted from")
    name = min(numeric, key=lambda one: log.columns[one].distinct)
    reason = f"{values_of(log.columns[name])}; taken as categories because features.target needs a column of them"
    plan.roles[name] = Role("categorical", reason, is_guess=True)
    return [name]


def _is_attribute(log: LogProfile, item: str, name: str) -> bool:
    """Whether every item has one value of a column, that several items share."""
    if log.columns[name].distinct >= log.columns[item].distinct or log.columns[name].distinct < 3:
        return False
    pair = _hashed(log, [item, name])
    items = np.unique(_hashed(log, [item])).size
    # Each item several times in the sample, or one value of each would prove nothing; 1% for what is corrected
    # meanwhile.
    return items < 0.5 * pair.size and np.unique(pair).size <= 1.01 * items


def _rows_together(log: LogProfile, plan: Plan, test: list[str]) -> list[keys.Together]:
    """What is counted of each key that rows of an impression could share."""
    named = [
        n for n, role in plan.roles.items() if keys.REQUEST.fullmatch(n) and role.kind in ("ignore", "categorical")
    ]
    candidates = [[name] for name in named if not log.columns[name].is_fraction]
    candidates += [[who, plan.time] for who in (plan.session, plan.user) if who is not None and plan.time is not None]
    # Rows to predict are compared as well, so they must have the key.
    candidates = [key for key in candidates if not test or set(key) <= set(test)]
    found = [keys.rows_together(log, key, plan.label.name) for key in candidates]
    first = next((one for one in found if one.is_impression), None)
    if first is not None and len(first.key) == 1 and first.key[0] not in plan.target:
        plan.roles[first.key[0]] = Role("ignore", "the impression: a new one says nothing, so it is no input")
    return found


def _row_key(log: LogProfile, plan: Plan) -> list[str]:
    """Columns that together tell the sample's rows apart as well as all do, the ones with the most values first."""
    usable = [name for name, role in plan.roles.items() if role.kind in ("categorical", "numeric", "ignore")]
    columns = [log.columns[name] for name in usable if log.columns[name].distinct > 1]
    whole = [column for column in columns if not column.is_fraction and not column.is_rounded]
    first = [name for name in (plan.session or plan.user, *plan.target, plan.time) if name is not None]
    if not columns:
        return []
    most = np.unique(_hashed(log, [column.name for column in columns])).size
    # Pairs of rows that agree grow with the square of the rows: these of the sample mean that 2% of all rows have one.
    allowed = 0.01 * log.sample.num_rows**2 / log.num_rows
    # A sample shows fewer equal rows than there are, so more columns are taken than it asks for.
    fewest = 1 if log.num_rows == log.sample.num_rows else _FEWEST_KEYS
    chosen: list[str] = []
    by_values = sorted(whole, key=lambda c: -c.distinct) + [c for c in columns if c.is_fraction]
    for name in dict.fromkeys([*first, *(column.name for column in by_values)]):
        is_enough = len(chosen) >= fewest and np.unique(_hashed(log, chosen)).size >= most - allowed
        if len(chosen) == _MOST_KEYS or is_enough:
            break
        chosen.append(name)
    return chosen


def _hashed(log: LogProfile, names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    columns: list[HashedColumn] = [hash_column(log.sample_of(name)) for name in names]
    return hash_rows(columns, seed_of("row key of setup", 0))


def _size_buckets(log: LogProfile, plan: Plan) -> None:
    counts: dict[str, int] = {name: log.columns[name].distinct for name in plan.of_kind("categorical")}
    for sequence in plan.sequences:
        name = sequence.shared.column if sequence.shared else sequence.tokens.name
        in_sample = sequence.tokens.values.count()  # the file may have more of a history's own tokens
        is_whole = log.num_rows == log.sample.num_rows or sequence.shared is not None
        counts[name] = max(counts.get(name, 0), in_sample if is_whole else 2 * in_sample)
    plan.buckets = {name: buckets_for(count) for name, count in counts.items()}
