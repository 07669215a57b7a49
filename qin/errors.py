"""The exceptions that end a stage with one clear line instead of a traceback."""


class QinError(Exception):
    """Base of every error whose message is written for the user; stages print it and exit with status 1."""


class ConfigError(QinError):
    """A setting in params.yaml is missing, unknown, of the wrong type, or contradicts another."""


class SchemaError(QinError):
    """A file's columns or types do not fit the features that params.yaml describes."""


class DataError(QinError):
    """A value in an input file breaks a rule; the message names file, column, row, rule and value."""


class FewClicksError(DataError):
    """A sample holds too few rows of a class for a figure that the run can do without."""


class ArtifactError(QinError):
    """A file written by an earlier stage is missing, damaged, or does not belong to this run."""


class EditedError(QinError):
    """An input, a setting or a source was edited while a stage ran."""


class TrainingError(QinError):
    """Training cannot go on, for example because the loss is no longer a number."""
