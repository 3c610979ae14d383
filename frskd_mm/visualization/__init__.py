"""Pictures of what a model does, for the commands and for training."""
