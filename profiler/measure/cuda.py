"""What is asked of CUDA itself: events on the training's stream, and losses that come without waiting.

All of it on the training's own thread: an event that another thread asks for while a CUDA graph is being captured would
spoil the user's capture. What others look at, from their threads, is what was found here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from profiler.measure.cuda_timer import Event
from profiler.measure.deferred import OnHost, Scalar

BATCH_S = 0.5
BATCH = 256
"""Scalars of half a second, or so many, are copied together: one kernel and one event for all."""

BATCHES_ON_THE_WAY = 64
"""Batches whose copy may be under way; past that the oldest never comes."""


class CudaEvents:
    """Events of one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, spare: Any) -> Event:
        """On the stream that the training uses now."""
        event: torch.cuda.Event = spare or torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def capturing(self) -> bool:
        """As torch tells it."""
        return torch.cuda.is_current_stream_capturing()


class _Slot:
    """One scalar of a batch, filled when the batch has come."""

    def __init__(self) -> None:
        self.number: float | None = None
        self.here = False

    def ready(self) -> bool:
        """Whether the batch has come."""
        return self.here

    def value(self) -> float | None:
        """The number; only valid once `ready`."""
        return self.number


class _Batch:
    """Scalars copied into pinned memory, in the order of the training's own stream."""

    def __init__(self, tensors: list[torch.Tensor], slots: list[_Slot]) -> None:
        together = torch.stack([tensor.to(torch.float32) for tensor in tensors])
        self._host = torch.empty(len(tensors), dtype=torch.float32, pin_memory=True)
        self._host.copy_(together, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()
        self._slots = slots

    def arrived(self) -> bool:
        """Fill the slots if the copy is done."""
        if not self._copied.query():
            return False
        for slot, number in zip(self._slots, self._host.tolist(), strict=True):
            slot.number, slot.here = number, True
        return True


class GpuScalars:
    """For trainings on CUDA: losses stay on the GPU until there are a few of them, then come together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent_s = clock()
        self._tensors: list[torch.Tensor] = []
        self._slots: list[_Slot] = []
        self._on_the_way: deque[_Batch] = deque(maxlen=BATCHES_ON_THE_WAY)

    def later(self, value: object) -> Scalar:
        """A slot for a CUDA tensor of one element; anything else as it is."""
        if not (isinstance(value, torch.Tensor) and value.is_cuda):
            return OnHost(value)
        if value.numel() != 1 or value.is_complex():
            return OnHost(None)
        slot = _Slot()
        self._tensors.append(value.detach().reshape(()))
        self._slots.append(slot)
        return slot

    def poll(self, *, last: bool = False) -> None:
        """Send a batch that is full, and fill the slots of those that have come; not while a graph is captured.

        After an error of the device (an assert in a kernel, say) no more come; the record must go on.
        """
        try:
            if not torch.cuda.is_current_stream_capturing():
                self._exchange(last)
        except RuntimeError:
            self._tensors, self._slots = [], []
            self._on_the_way.clear()

    def _exchange(self, last: bool) -> None:
        due = last or len(self._tensors) >= BATCH or self._clock() - self._sent_s >= BATCH_S
        if self._tensors and due:
            self._sent_s = self._clock()
            self._on_the_way.append(_Batch(self._tensors, self._slots))
            self._tensors, self._slots = [], []
        while self._on_the_way and self._on_the_way[0].arrived():
            self._on_the_way.popleft()
