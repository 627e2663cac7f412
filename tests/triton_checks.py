"""The Triton interpreter with eyes: programs in any order, bounds checked, races found.

Within one launch, two programs race where both touch a byte, at least one of them writes, not both
atomically, and nothing orders the two: no chain of atomics that release and acquire.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
import triton.runtime.interpreter as interpreter

from softcm import triton_ops


class Race(AssertionError):
    pass


def tensors_of(arguments) -> Iterator[torch.Tensor]:
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, tuple):
            yield from tensors_of(argument)


def span(x: torch.Tensor) -> tuple[int, int]:
    """The first byte of a tensor, and the first one after it."""
    elements = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (elements + 1) * x.element_size()


class Memory:
    """What the programs of one launch may touch, and what each of them has touched of it."""

    def __init__(self, inputs, outputs):
        self.inputs = [span(x) for x in inputs if x.numel() > 0]
        self.outputs = [span(x) for x in outputs if x.numel() > 0]
        self.program = 0
        self.clocks = {}  # of each program: up to when it knows what the others did
        self.released = {}  # address -> the clock that an acquiring atomic gets there
        self.accesses = {}  # address -> {(program, kind): time}

    def touch(self, pointers, mask, size, kind, order=""):
        active = np.broadcast_to(np.asarray(mask, dtype=bool), np.shape(pointers))
        addresses = np.asarray(pointers)[active].astype(np.int64)
        in_outputs = self._within(addresses, size, self.outputs)
        allowed = in_outputs | (self._within(addresses, size, self.inputs) & (kind == "load"))
        if not allowed.all():
            raise IndexError(f"program {self.program}: {kind} out of bounds")
        found, times = np.unique(addresses[in_outputs], return_counts=True)
        if kind == "store" and (times > 1).any():
            raise Race(f"program {self.program}: two stores to one address")
        for address in found.tolist():
            self._record(address, kind, order)

    @staticmethod
    def _within(addresses, size, spans):
        inside = np.zeros(addresses.shape, dtype=bool)
        for begin, end in spans:
            inside |= (addresses >= begin) & (addresses + size <= end)
        return inside

    def _record(self, address, kind, order):
        me = self.program
        clock = self.clocks.setdefault(me, {me: 1})
        if "acquire" in order:
            for program, time in self.released.get(address, {}).items():
                clock[program] = max(clock.get(program, 0), time)
        accesses = self.accesses.setdefault(address, {})
        for (program, other), time in accesses.items():
            conflict = program != me and {kind, other} not in ({"load"}, {"atomic"})
            if conflict and clock.get(program, 0) < time:
                raise Race(f"programs {program} and {me}: {other} and {kind}")
        accesses[me, kind] = clock[me]
        if "release" in order:
            at = self.released.setdefault(address, {})
            for program, time in clock.items():
                at[program] = max(at.get(program, 0), time)
            clock[me] += 1


class Watched:
    """The interpreter's access to memory, with a look at each."""

    def __init__(self, real, memory):
        self.real, self.memory = real, memory

    def __getattr__(self, name):
        return getattr(self.real, name)

    def load(self, pointers, mask, other, dtype):
        self.memory.touch(pointers, mask, np.dtype(dtype).itemsize, "load")
        return self.real.load(pointers, mask, other, dtype)

    def store(self, pointers, value, mask):
        self.memory.touch(pointers, mask, value.dtype.itemsize, "store")
        return self.real.store(pointers, value, mask)

    def atomic_rmw(self, operation, pointers, value, mask, order):
        self.memory.touch(pointers, mask, value.dtype.itemsize, "atomic", str(order).lower())
        return self.real.atomic_rmw(operation, pointers, value, mask, order)


def rounded_to_bfloat16(convert):
    """Conversions as on a GPU: the interpreter cuts float32 off where a GPU rounds."""

    def converted(values, source, destination, rounding):
        if source.name == "fp32" and destination.name == "bf16":
            bits = values.view(np.uint32)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
        return convert(values, source, destination, rounding)

    return converted


@contextlib.contextmanager
def checked(seed=0, watch=True):
    """Launches of the Triton backend are checked, their programs run in the order of a seed."""
    random = np.random.default_rng(seed)
    launch, builder = triton_ops._launch, interpreter.interpreter_builder
    set_index, real = builder.set_grid_idx, interpreter._interpreter

    def checked_launch(call, kernel, programs, *args, **constants):
        order = iter(random.permutation(programs).tolist())
        # What is not an argument of every kernel is an output, or read only.
        memory = Memory(tensors_of(call.arguments), tensors_of(args))

        def set_next_index(*_):
            memory.program = next(order)
            set_index(memory.program, 0, 0)

        accesses = Watched(real, memory) if watch else real
        with (
            mock.patch.object(builder, "set_grid_idx", set_next_index),
            mock.patch.object(interpreter, "_interpreter", accesses),
        ):
            launch(call, kernel, programs, *args, **constants)

    convert = rounded_to_bfloat16(interpreter._convert_float)
    with (
        mock.patch.object(triton_ops, "_launch", checked_launch),
        mock.patch.object(interpreter, "_convert_float", convert),
    ):
        yield
