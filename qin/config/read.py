"""The reader of params.yaml, which checks all settings at once."""

import json
import logging
from pathlib import Path

from pydantic import ValidationError

from qin.config.params import Params
from qin.config.problems import problem_lines, without_retired
from qin.config.strict_yaml import read_yaml
from qin.runtime.errors import ConfigError, shortened

log = logging.getLogger("qin")


def load_params(path: Path, *, warns: bool = True) -> Params:
    """Read and check params.yaml; a key that an earlier version read is left out, with a warning.

    Args:
        path: The params file, YAML 1.2.
        warns: Whether to warn, for a process that reads it a second time.

    Raises:
        ConfigError: If the file cannot be read or breaks a rule; every problem is on its own line, with its dotted
            path, the value, and for an unknown key the nearest valid one.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as `data:` and `train:`, got {shortened(repr(tree))}")
    tree, retired = without_retired(tree)
    for line in retired if warns else ():
        log.warning("warning: %s: %s", path, line)
    try:
        # By way of JSON, whose strict rules are those of a file: text is no number, but a list is any kind of sequence.
        return Params.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError(*(f"{path}: {line}" for line in problem_lines(error, Params))) from error
