"""The tensors of a foreign state dict, taken by name, with a record of what was asked for and what was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from worldstream.errors import WeightsError

MOST_LISTED = 20
"""Names of each kind that a message lists."""


class ForeignTensors:
    """A state dict that must be used up: ``check`` refuses it when anything is missing, unknown or of another shape.

    Args:
        tensors: by name.
        source: what messages call it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self.source = source
        self._tensors = dict(tensors)
        self._unused = set(tensors)
        self._missing: list[str] = []
        self._misshaped: list[str] = []

    def has(self, prefix: str) -> bool:
        """Whether any name begins like this."""
        return any(name.startswith(prefix) for name in self._tensors)

    def count(self, template: str) -> int:
        """How many of the numbers 0, 1, ... make a prefix that occurs, put in the place of ``{}``."""
        number = 0
        while self.has(template.format(number)):
            number += 1
        return number

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor from which a size is inferred. Raises WeightsError when there is none that could be it."""
        if name not in self._tensors:
            raise WeightsError(
                f"{self.source} has no tensor '{name}', from which a size would follow. "
                f"{_listed('It has', sorted(self._tensors))}"
            )
        shape = tuple(self._tensors[name].shape)
        axes = 2 if name.endswith("weight") else 1
        if len(shape) < axes or 0 in shape:
            raise WeightsError(
                f"{self.source}: '{name}' has the shape {shape}. A size follows from it, so it must have at least "
                f"{axes} axes, none of them empty."
            )
        return shape

    def values(self, name: str) -> list[int]:
        """Integers that a tensor holds and a size follows from. Raises WeightsError when there is none."""
        self.shape(name)
        numbers: list[int] = self._tensors[name].long().flatten().tolist()
        return numbers

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor that must have this shape; zeros where it has not, which ``check`` will report."""
        if name not in self._tensors:
            self._missing.append(f"{name} {tuple(shape)}")
            return torch.zeros(shape)
        self._unused.discard(name)
        tensor = self._tensors[name]
        if tensor.shape != torch.Size(shape):
            self._misshaped.append(f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}")
            return torch.zeros(shape)
        return tensor

    def ignore(self, *prefixes: str) -> None:
        """Names that the published agent has, but never reads."""
        self._unused -= {name for name in self._unused if name.startswith(prefixes)}

    def fill(self, prefix: str, module: nn.Module, rename: Callable[[str], str] = str) -> None:
        """Copy all parameters and persistent buffers of a module from names that begin with ``prefix``."""
        with torch.no_grad():
            for name, target in module.state_dict().items():
                target.copy_(self.take(f"{prefix}{rename(name)}", tuple(target.shape)))

    def check(self) -> None:
        """Raises WeightsError that lists by name what is missing, of another shape, or unknown."""
        problems = [
            _listed(title, names)
            for title, names in (
                ("Missing", self._missing),
                ("Of another shape", self._misshaped),
                ("Unknown", sorted(self._unused)),
            )
            if names
        ]
        if problems:
            raise WeightsError(
                f"{self.source} does not fit. {' '.join(problems)} Check that configuration and environment are those "
                "that the weights were trained with."
            )


def _listed(title: str, names: list[str]) -> str:
    rest = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{title}: {', '.join(names[:MOST_LISTED]) or 'nothing'}{rest}."
