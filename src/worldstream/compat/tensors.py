"""The tensors of a foreign state dict, taken by name, with a record of what was asked for and what was not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldstream.errors import WeightsError

MOST_LISTED = 20
"""Names of each kind that a message lists."""

MISSING, MISSHAPED, MISTYPED = "Missing", "Of another shape", "Of another type"
INFINITE, DIFFERENT, UNKNOWN = "With values that are not finite", "Constants of other values", "Unknown"
PROBLEMS = (MISSING, MISSHAPED, MISTYPED, INFINITE, DIFFERENT, UNKNOWN)
"""What may be wrong with a tensor, in the order of the message."""


class Size(NamedTuple):
    """A size as the shape of a tensor tells it."""

    name: str
    axis: int
    num_axes: int
    """Of the tensor; with another number it cannot be what it is called."""


class ForeignTensors:
    """A state dict that must be used up: ``check`` refuses it when anything is missing, unknown or not what it must be.

    Args:
        tensors: by name.
        source: what messages call it.

    Raises WeightsError when some are no plain arrays of numbers.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self.source = source
        self._tensors = dict(tensors)
        self._unused = set(tensors)
        self._problems: dict[str, list[str]] = {kind: [] for kind in PROBLEMS}
        if odd := [name for name, tensor in tensors.items() if not _is_plain(tensor)]:
            raise WeightsError(
                f"{source} holds sparse, nested or quantised tensors. {_listed('These are', odd)} Save them dense."
            )

    def has(self, prefix: str) -> bool:
        """Whether any name begins like this."""
        return any(name.startswith(prefix) for name in self._tensors)

    def numbers(self, template: str) -> list[int]:
        """Numbers that stand in the place of ``{}`` in beginnings of names, in ascending order."""
        pattern = re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))
        found = (pattern.match(name) for name in self._tensors)
        return sorted({int(match[1]) for match in found if match})

    def count(self, template: str) -> int:
        """How many of the numbers 0, 1, ... occur in the place of ``{}``. Raises WeightsError when one is left out."""
        numbers = self.numbers(template)
        for expected, number in enumerate(numbers):
            if number != expected:
                raise WeightsError(
                    f"{self.source} has '{template.format(number)}', but nothing that is called "
                    f"'{template.format(expected)}'."
                )
        return len(numbers)

    def shape(self, name: str, num_axes: int) -> tuple[int, ...]:
        """Shape of a tensor from which a size is inferred. Raises WeightsError when there is none that could be it."""
        if name not in self._tensors:
            raise WeightsError(
                f"{self.source} has no tensor '{name}', from which a size would follow. "
                f"{_listed('It has', sorted(self._tensors))}"
            )
        shape = tuple(self._tensors[name].shape)
        if len(shape) != num_axes or 0 in shape:
            raise WeightsError(
                f"{self.source}: '{name}' has the shape {shape}. A size follows from it, so it must have {num_axes} "
                "axes, none of them empty."
            )
        return shape

    def size(self, *places: Size) -> int:
        """A size that several tensors have in common. Raises WeightsError that names them when they contradict."""
        sizes = [self.shape(place.name, place.num_axes)[place.axis] for place in places]
        if len(set(sizes)) > 1:
            said = ", ".join(f"{size} by '{place.name}'" for place, size in zip(places, sizes, strict=True))
            raise WeightsError(
                f"{self.source}: tensors that share a size contradict each other: {said}. "
                "Take the file as the published agent wrote it."
            )
        return sizes[0]

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers from which a size follows. Raises WeightsError when it is none."""
        self.shape(name, 1)
        if not _is_integer(self._tensors[name]):
            raise WeightsError(f"{self.source}: '{name}' has the type {self._tensors[name].dtype}, not integers.")
        return tuple(self._tensors[name].tolist())

    def take(self, name: str, shape: tuple[int, ...], *, integer: bool = False) -> Tensor:
        """A tensor that must have this shape and hold finite floating-point numbers, or integers.

        Returns:
            zeros where it is not so, which ``check`` will report.
        """
        tensor = self._taken(name, shape, integer)
        return torch.zeros(shape) if tensor is None else tensor

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """A tensor that the published agent has and never reads, nor do we: it must be there, and be what it is."""
        self._taken(name, shape, integer=False)

    def constant(self, name: str, value: Tensor) -> None:
        """A tensor that holds a constant of the method, which we compute: it must say the same."""
        integer = not value.is_floating_point()
        tensor = self._taken(name, tuple(value.shape), integer)
        if tensor is None:
            return
        # One in the last place: powers differ by that between machines, and more would show over a long segment.
        tolerance = 0.0 if integer else max(torch.finfo(dtype).eps for dtype in (tensor.dtype, value.dtype))
        if not torch.allclose(tensor.double(), value.to(tensor.dtype).double(), rtol=tolerance, atol=0.0):
            self._problems[DIFFERENT].append(name)

    def _taken(self, name: str, shape: tuple[int, ...], integer: bool) -> Tensor | None:
        """The tensor, now used; None when something about it is wrong, which is noted."""
        tensor = self._tensors.get(name)
        self._unused.discard(name)
        if tensor is None:
            self._problems[MISSING].append(f"{name} {tuple(shape)}")
        elif tensor.shape != torch.Size(shape):
            self._problems[MISSHAPED].append(f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}")
        elif not (_is_integer(tensor) if integer else tensor.is_floating_point()):
            kind = "integer" if integer else "floating-point"
            self._problems[MISTYPED].append(f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not {kind}")
        elif not integer and not tensor.float().isfinite().all():
            self._problems[INFINITE].append(name)
        else:
            return tensor
        return None

    def ignore(self, prefix: str) -> None:
        """Names of a part that the published agent uses in training only, whatever it holds."""
        self._unused -= {name for name in self._unused if name.startswith(prefix)}

    def fill(self, prefix: str, module: nn.Module, rename: Callable[[str], str] = str) -> None:
        """Copy all parameters and persistent buffers of a module from names that begin with ``prefix``."""
        with torch.no_grad():
            for name, target in module.state_dict().items():
                integer = not target.is_floating_point()
                target.copy_(self.take(f"{prefix}{rename(name)}", tuple(target.shape), integer=integer))

    def check(self) -> None:
        """Raises WeightsError that lists by name what is missing, unknown, or not what it must be."""
        self._problems[UNKNOWN] = sorted(self._unused)
        problems = [_listed(kind, names) for kind, names in self._problems.items() if names]
        if problems:
            raise WeightsError(
                f"{self.source} does not fit. {' '.join(problems)} Check that configuration and environment are those "
                "that the weights were trained with."
            )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _listed(title: str, names: list[str]) -> str:
    rest = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{title}: {', '.join(names[:MOST_LISTED]) or 'nothing'}{rest}."
