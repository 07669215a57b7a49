"""One script per measured claim; each prints JSON, and the README's tables are made from `results/`."""

import qin  # noqa: F401  # before PyTorch, for which it sets how threads wait
