"""A user's model file, as the demo has it: a function without arguments that builds the architecture."""

from itertools import pairwise

from torch import Tensor, nn


class DigitsCNN(nn.Module):
    """Four convolutions and a linear layer: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 64, 64)
        layers: list[nn.Module] = []
        for at, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            if at == 1:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        return self.fc(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def digits_cnn() -> nn.Module:
    """Return the model, untrained."""
    return DigitsCNN()
