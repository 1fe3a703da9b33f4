"""The tensors of a foreign state dict, taken by name, with a record of what was asked for and what was not."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldstream.errors import WeightsError

MOST_LISTED = 20
"""Names of each kind that a message lists."""

MISSING, MISSHAPED, MISTYPED = "Missing", "Of another shape", "Of another type"
INFINITE, DIFFERENT, UNKNOWN = "With values that are not finite", "Constants of other values", "Unknown"
CONTRADICTING = "Contradicting each other"
PROBLEMS = (CONTRADICTING, MISSING, MISSHAPED, MISTYPED, INFINITE, DIFFERENT, UNKNOWN)
"""What may be wrong with a tensor, in the order of the message."""


class Size(NamedTuple):
    """A size as the shape of a tensor tells it."""

    name: str
    axis: int
    num_axes: int
    """Of the tensor; with another number it cannot be what it is called."""
    times: int = 1
    """How often the axis holds the size."""


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
        self._noted: set[str] = set()  # names whose problem is known before they are taken
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

    def count(self, *templates: str) -> int:
        """How many of the numbers 0, 1, ... occur in the place of ``{}`` of any template.

        A few that are left out count as well: their tensors will be missed. Raises WeightsError when most are.
        """
        numbers = {number for template in templates for number in self.numbers(template)}
        count = max(numbers, default=-1) + 1
        if count > 2 * len(numbers):
            absent = next(number for number in range(count) if number not in numbers)
            raise self.refusal(
                f"has '{templates[0].format(count - 1)}', but nothing that is called '{templates[0].format(absent)}'."
            )
        return count

    def size(self, *places: Size, otherwise: int | None = None) -> int:
        """The size that most of some tensors tell, the smaller one of two that are told as often.

        Those that tell another size, and those that are missing or of another form, are reported by ``check`` when they
        are taken: all of them are tensors of the agent.

        Args:
            places: where it is told.
            otherwise: size where no tensor tells it, if nothing but the form of these tensors depends on it.

        Raises WeightsError when no tensor tells it.
        """
        told = {place.name: size for place in places if (size := self._told(place))}
        if not told:
            first = places[0].name
            if otherwise is None:
                raise self.refusal(f"{self._why_not(places)}, from which a size would follow. {self._near(first)}")
            self._note(MISSHAPED if first in self._tensors else MISSING, first)
            self._noted.add(first)
            return otherwise
        votes = Counter(told.values()).most_common()
        likeliest = [size for size, count in votes if count == votes[0][1]]
        if len(likeliest) > 1:
            self._note(CONTRADICTING, " but ".join(f"{name} tells the size {size}" for name, size in told.items()))
        return min(likeliest)

    def _told(self, place: Size) -> int:
        """The size at a place; 0 when there is no tensor that could tell it."""
        tensor = self._tensors.get(place.name)
        if (
            tensor is None
            or tensor.ndim != place.num_axes
            or 0 in tensor.shape
            or tensor.shape[place.axis] % place.times
        ):
            return 0
        return int(tensor.shape[place.axis]) // place.times

    def _why_not(self, places: Sequence[Size]) -> str:
        there = [place for place in places if place.name in self._tensors]
        if not there:
            return f"has no tensor {' or '.join(dict.fromkeys(repr(place.name) for place in places))}"
        shape = tuple(self._tensors[there[0].name].shape)
        return f"has '{there[0].name}' of the shape {shape}, not of {there[0].num_axes} axes, none of them empty"

    def _near(self, name: str) -> str:
        """Names that resemble one, of the same part if it has any."""
        part, found = name, list[str]()
        while not found and "." in part:
            part = part.rpartition(".")[0]
            found = [other for other in self._tensors if other.startswith(f"{part}.")]
        near = difflib.get_close_matches(name, found or self._tensors, n=5, cutoff=0.0)
        return f"Nearest names: {', '.join(near) or 'none'}."

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers from which sizes follow; () when it is none, which is reported when it is taken."""
        tensor = self._tensors.get(name)
        return tuple(tensor.tolist()) if tensor is not None and tensor.ndim == 1 and _is_integer(tensor) else ()

    def contradict(self, text: str, *names: str) -> None:
        """Note for ``check`` that tensors contradict each other, and nothing else about those of the names."""
        self._note(CONTRADICTING, text)
        self._noted.update(names)

    def refusal(self, text: str) -> WeightsError:
        """Error of something that leaves nothing to compare the other tensors with, and all that is noted so far."""
        return WeightsError(" ".join([f"{self.source} {text}", *self._listed_problems()]))

    def _note(self, kind: str, text: str) -> None:
        if text not in self._problems[kind]:
            self._problems[kind].append(text)

    def _listed_problems(self) -> list[str]:
        return [_listed(kind, names) for kind, names in self._problems.items() if names]

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
            self._note(DIFFERENT, name)

    def _taken(self, name: str, shape: tuple[int, ...], integer: bool) -> Tensor | None:
        """The tensor, now used; None when something about it is wrong, which is noted."""
        tensor = self._tensors.get(name)
        self._unused.discard(name)
        if name in self._noted:
            return None
        if tensor is None:
            self._note(MISSING, f"{name} {tuple(shape)}")
        elif tensor.shape != torch.Size(shape):
            self._note(MISSHAPED, f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}")
        elif not (_is_integer(tensor) if integer else tensor.is_floating_point()):
            kind = "integer" if integer else "floating-point"
            self._note(MISTYPED, f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not {kind}")
        elif not integer and not tensor.float().isfinite().all():
            self._note(INFINITE, name)
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
        if problems := self._listed_problems():
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
