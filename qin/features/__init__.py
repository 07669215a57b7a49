"""What is computed from a row and its history, from the rows shown with it, and from the train fold."""
