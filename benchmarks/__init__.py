"""One script per measured claim; each prints JSON, and the README's tables are made from `results/`."""
