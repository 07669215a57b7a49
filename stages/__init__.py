"""One Typer command per DVC stage; `python -m stages <name>` runs one."""
