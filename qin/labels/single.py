"""The settings of several labels as they are for one of them."""

from qin.config import Params
from qin.runtime.errors import ConfigError, did_you_mean
from qin.runtime.logs import log


def of_label(params: Params, label: str) -> Params:
    """The settings for a label alone; those of one label stay as they are.

    Args:
        params: Settings.
        label: One of `data.label`.
    """
    data = params.data
    if len(data.labels) == 1:
        return params
    others = [name for name in data.labels if name != label]
    # They are ignored: as inputs they would tell what is known only afterwards.
    alone = data.model_copy(update={"label": label, "ignore": [*data.ignore, *others]})
    return params.model_copy(update={"data": alone, "predict": params.predict.model_copy(update={"label": None})})


def choose_label(params: Params, label: str | None, *, what: str) -> Params:
    """The settings for the label that a command is of.

    Args:
        params: Settings.
        label: As it was asked for; None for the first.
        what: Is of one label, for messages.

    Raises:
        ConfigError: If there is no such label, or the labels are learned together.
    """
    labels = params.data.labels
    if label is not None and label not in labels:
        raise ConfigError(
            f"params.yaml: data.label: no label {label}{did_you_mean(label, labels)}; there are {', '.join(labels)}"
        )
    if params.data.shares_heads:
        raise ConfigError(
            f"params.yaml: data.label_heads: shared; {what} is of one label, whose network here learns "
            f"{', '.join(labels)} together: set it to separate"
        )
    if len(labels) > 1:
        log.info("%s of label %s (of %s)", what, label or labels[0], ", ".join(labels))
    return of_label(params, label or labels[0])
