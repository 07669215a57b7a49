"""The report of a run: one page, complete in itself, made from the stages' figures and the points of the plots."""
