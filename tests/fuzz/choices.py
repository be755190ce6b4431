"""Random choices that depend on a seed alone."""

from __future__ import annotations

import random


class Choices:
    """Chooses, the same for the same seed."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.counter = 0

    def one(self, options):
        return options[self.rng.randrange(len(options))]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"
