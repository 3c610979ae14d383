"""Pictures of models, feature maps and runs."""
