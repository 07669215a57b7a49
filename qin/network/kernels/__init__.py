"""Fast forms for CPUs of what `qin.network` defines, under the same names."""
