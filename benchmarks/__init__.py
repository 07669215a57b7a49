"""One script per measured claim; each prints JSON, and the README's tables are made from `results/`."""

from qin.runtime.host import set_waiting_of_threads

set_waiting_of_threads()  # as in a stage; before PyTorch is imported
