"""A training step of other code, for the tests of the benchmark."""

import torch

MEGABYTES = 64


def build(batch_size, image_size, num_classes):
    """Return a step of a linear model that takes 64 MB for a moment."""
    model = torch.nn.Linear(3 * image_size[0] * image_size[1], num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(batch_size, model.in_features)

    def step():
        torch.ones(MEGABYTES * 2**18)
        optimizer.zero_grad()
        model(inputs).sum().backward()
        optimizer.step()

    return step


def build_nothing(batch_size, image_size, num_classes):
    """Return no function."""
