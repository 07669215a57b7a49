"""One label's part of a folder of artifacts, as a run of that label alone would have left it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qin.runtime import paths
from qin.runtime.chain import read_artifact
from qin.runtime.errors import ArtifactError, did_you_mean
from qin.runtime.labelled import label_place, labelled_text, labels_of
from qin.runtime.logs import log

_FILES = (paths.BLEND, paths.CALIBRATOR)


@contextmanager
def artifacts_of(folder: Path, label: str | None) -> Iterator[Path]:
    """A folder that holds the artifacts of one label alone: itself where it has one, else one of links.

    Args:
        folder: `artifacts` of a repository, or a copy of it.
        label: The label; None for the first.

    Raises:
        ArtifactError: If it has no such label, or what is read inside the block is missing or damaged.
    """
    blend = folder / paths.BLEND.name
    labels = labels_of(blend) if blend.is_file() else ()
    if not labels:
        if label is not None:
            chosen_label([str(read_artifact(paths.BLEND, at=blend).origin.settings["data.label"])], label, of=folder)
        yield folder
        return
    chosen = chosen_label(labels, label, of=folder)
    with TemporaryDirectory(prefix="qin-label-") as name:
        place = Path(name)
        # Linked: a model and its statistics may be gigabytes.
        for entry in folder.iterdir():
            if label_place(entry, chosen).is_dir():
                (place / entry.name).symlink_to(label_place(entry, chosen).absolute())
        try:
            for file in _FILES:
                (place / file.name).write_text(labelled_text(folder / file.name, chosen), encoding="utf-8")
            yield place
        except ArtifactError as error:
            # Of what was named, not of a folder of links that is gone when the message is read.
            raise ArtifactError(*(line.replace(name, f"{folder} (label {chosen})") for line in error.lines)) from error


def chosen_label(labels: Sequence[str], label: str | None, *, of: Path | str) -> str:
    """The label that is meant, the first where none is named; where there are several, the log says which.

    Args:
        labels: Those that there are.
        label: The one that was named.
        of: What has them, for messages.

    Raises:
        ArtifactError: If there is no such label.
    """
    if label is None:
        others = ", ".join(labels[1:])
        log.info("%s: label %s%s", of, labels[0], f" (the others: {others})" if others else "")
        return labels[0]
    if label not in labels:
        raise ArtifactError(f"{of}: no label {label}{did_you_mean(label, labels)}; it is of {', '.join(labels)}")
    return label
