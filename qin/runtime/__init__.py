"""What every stage stands on: files, the process, progress, provenance; without PyTorch."""
