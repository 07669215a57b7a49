"""One Typer command per DVC stage."""

from qin.parent import end_with_parent

end_with_parent()  # here, because a stage's own imports take seconds, in which `dvc` may be killed
