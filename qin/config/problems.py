"""What is wrong with the settings, in lines that name the key, the value and the nearest key that there is."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from qin.runtime.errors import did_you_mean, shortened

# Keys of earlier versions, with what decides now what they decided: a params.yaml that still has them runs.
RETIRED = {
    "calibration.seed": "split.seed draws the halves of the validation fold",
    "evaluate.baseline_rows": "the trees are a stage of their own, trees.max_rows bounds their rows",
}


def without_retired(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings without keys of earlier versions, and a line about each of those.

    Args:
        tree: What params.yaml holds, of any shape below its sections.
    """
    kept, lines = dict(tree), []
    for dotted, instead in RETIRED.items():
        section, _, key = dotted.partition(".")
        values = kept.get(section)
        if isinstance(values, dict) and key in values:
            kept[section] = {name: value for name, value in values.items() if name != key}
            lines.append(f"{dotted} is not read any more ({instead}); remove it")
    return kept, lines


def problem_lines(error: ValidationError, settings: type[BaseModel]) -> Iterator[str]:
    """One line per problem: dotted path, what is wrong, the value; complaints about one union-typed value are joined.

    Args:
        error: What the settings' model found.
        settings: That model, which knows the keys that there are.
    """
    by_path: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        location = _without_union_tags(detail["loc"], settings)
        path = ".".join(str(part) for part in location)
        shown[path] = f" (got {shortened(json.dumps(detail['input'], default=str, ensure_ascii=False))})"
        if detail["type"] == "extra_forbidden":
            message = "unknown key" + _nearest(location, settings)
        elif detail["type"] == "missing":
            message, shown[path] = "missing", ""
        elif detail["type"] == "value_error":  # a rule between keys; its message names them
            message, shown[path] = detail["msg"].removeprefix("Value error, "), ""
        else:
            message = detail["msg"] + _nearest_value(detail)
        by_path.setdefault(path, []).append(message)
    for path, messages in by_path.items():
        place = f"{path}: " if path else ""  # a rule between sections names them itself
        yield f"{place}{' or '.join(dict.fromkeys(messages))}{shown[path]}"


def _without_union_tags(location: Sequence[int | str], settings: type[BaseModel]) -> list[int | str]:
    """Drop pydantic's union member names, such as `constrained-float`, from the end of a location."""
    parts: list[int | str] = []
    model: type[BaseModel] | None = settings
    for part in location:
        if model is None and isinstance(part, str) and parts and _is_leaf(parts, settings):
            break
        parts.append(part)
        model = _model_at(parts, settings)
    return parts


def _is_leaf(location: Sequence[int | str], settings: type[BaseModel]) -> bool:
    parent = _model_at(location[:-1], settings)
    field = parent.model_fields.get(str(location[-1])) if parent else None
    # Below a mapping, names are the user's keys, such as a column in `num_buckets_of`, and belong to the path.
    return field is not None and "dict" not in str(field.annotation)


def _model_at(location: Sequence[int | str], settings: type[BaseModel]) -> type[BaseModel] | None:
    """The section that a location names, or of a number the kind of section that its list holds; None for a value."""
    annotation: Any = settings
    for part in location:
        if isinstance(part, int):
            annotation = next(iter(get_args(annotation)), None)
            continue
        field = annotation.model_fields.get(part) if _is_section(annotation) else None
        annotation = field.annotation if field else None
    return annotation if _is_section(annotation) else None


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel)


def _nearest_value(detail: Mapping[str, Any]) -> str:
    """The allowed value that a mistyped one is near to, if there is one."""
    if detail["type"] != "literal_error" or not isinstance(detail["input"], str):
        return ""
    # Pydantic hands the allowed values out as a sentence alone.
    allowed = re.findall("'([^']*)'", detail["ctx"]["expected"])
    return did_you_mean(detail["input"], allowed)


def _nearest(location: Sequence[int | str], settings: type[BaseModel]) -> str:
    parent = _model_at(location[:-1], settings)
    if parent is None:
        return ""
    prefix = "".join(f"{part}." for part in location[:-1])
    return did_you_mean(str(location[-1]), parent.model_fields, prefix=prefix)
