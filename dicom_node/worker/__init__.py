"""The analysis worker: the only part of the node that loads the model."""
