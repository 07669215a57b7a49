"""One Typer command per DVC stage."""
