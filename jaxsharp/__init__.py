"""Train networks, measure the sharpness of the minima they reach, test what it predicts."""

__version__ = "0.1.0"
