"""Whether models train with a method, and stay the plain models that they were."""
