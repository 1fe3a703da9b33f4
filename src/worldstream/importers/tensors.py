"""The tensors of a foreign state dict, taken by name, with a record of what was asked for and what was not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from worldstream.errors import WeightsError

MOST_LISTED = 20
"""Names of each kind of problem that a message lists."""

MISSING, MISSHAPED, MISTYPED = "Missing", "Of another shape", "Of another type"
INFINITE, DIFFERENT, UNKNOWN = "With values that are not finite", "Constants of other values", "Unknown"
PROBLEMS = (MISSING, MISSHAPED, MISTYPED, INFINITE, DIFFERENT, UNKNOWN)
"""What may be wrong with a tensor, in the order of the message."""


class ForeignTensors:
    """A state dict that must be used up: ``check`` refuses it when anything is missing, unknown or not what it must be.

    Messages call it ``source``. Raises WeightsError when some of it are no plain arrays of numbers.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self.source = source
        self._tensors = dict(tensors)
        self._unused = set(tensors)
        self._problems: dict[str, list[str]] = {kind: [] for kind in PROBLEMS}
        if odd := [name for name, x in tensors.items() if x.layout != torch.strided or x.is_nested or x.is_quantized]:
            raise WeightsError(
                f"{source} holds sparse, nested or quantised tensors. {_listed('These are', odd)} Save them dense."
            )

    @property
    def num_values(self) -> int:
        """Number of all numbers."""
        return sum(tensor.numel() for tensor in self._tensors.values())

    def has(self, *prefixes: str) -> bool:
        """Whether any name begins with one of these."""
        return any(name.startswith(prefixes) for name in self._tensors)

    def numbers(self, prefix: str) -> list[int]:
        """Numbers that follow the prefix in names, in ascending order."""
        found = (re.match(r"\d+", name.removeprefix(prefix)) for name in self._tensors if name.startswith(prefix))
        return sorted({int(match[0]) for match in found if match})

    def look(self, name: str) -> Tensor:
        """A tensor, without using it up; an empty one where there is none."""
        return self._tensors.get(name, torch.empty(0))

    def take(self, name: str, shape: tuple[int, ...], *, integer: bool = False) -> Tensor:
        """A tensor that must have this shape and hold finite floating-point numbers, or integers.

        Zeros where it is not so, which ``check`` will report.
        """
        tensor = self._taken(name, shape, integer)
        return torch.zeros(shape) if tensor is None else tensor

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

    def fill(self, prefix: str, module: nn.Module, rename: Callable[[str], str] = str) -> None:
        """Copy all parameters and persistent buffers of a module from names that begin with ``prefix``."""
        with torch.no_grad():
            for name, target in module.state_dict().items():
                integer = not target.is_floating_point()
                target.copy_(self.take(f"{prefix}{rename(name)}", tuple(target.shape), integer=integer))

    def ignore(self, prefix: str) -> None:
        """Names of a part that the published agent uses in training only, whatever it holds."""
        self._unused -= {name for name in self._unused if name.startswith(prefix)}

    def check(self, advice: str) -> None:
        """Raises WeightsError that lists by name what is missing, unknown, or not what it must be, with advice."""
        self._problems[UNKNOWN] = sorted(self._unused)
        if problems := [_listed(kind, names) for kind, names in self._problems.items() if names]:
            raise WeightsError(f"{self.source} does not fit. {' '.join(problems)} {advice}")

    def _taken(self, name: str, shape: tuple[int, ...], integer: bool) -> Tensor | None:
        """The tensor, now used; None when something about it is wrong, which is noted."""
        self._unused.discard(name)
        tensor = self._tensors.get(name)
        if tensor is None:
            kind, text = MISSING, f"{name} {shape}"
        elif tensor.shape != torch.Size(shape):
            kind, text = MISSHAPED, f"{name} is {tuple(tensor.shape)}, not {shape}"
        elif not (_is_integer(tensor) if integer else tensor.is_floating_point()):
            wanted = "integer" if integer else "floating-point"
            kind, text = MISTYPED, f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not {wanted}"
        elif not integer and not tensor.float().isfinite().all():
            kind, text = INFINITE, name
        else:
            return tensor
        if text not in self._problems[kind]:  # several keys of a kind share their tensors
            self._problems[kind].append(text)
        return None


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _listed(title: str, names: list[str]) -> str:
    rest = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{title}: {', '.join(names[:MOST_LISTED])}{rest}."
