"""Copies between an arena and the host tier: direct on one memory, streamed with events on a CUDA device.

The order that must hold on a device with its own copy stream:

* compute → copy: a row is read by the copy stream only after the forward that wrote it;
* copy → compute: a slot is written by the compute stream only after a copy out of it has finished;
* copy in → compute: attention reads a recalled row only after it has landed.

All three are device-side waits on events; the host never blocks in the decode path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from tenure.pool.arena import Arena, contiguous_runs
from tenure.pool.host import HostBlock


class Transfer(Protocol):
    """What the pager needs of a copier. Both copies may raise; the caller restores what it must."""

    def page_out(self, arena: Arena, slots: Sequence[int], block: HostBlock) -> None:
        """Copy the rows at `slots` (in offset order, a whole block) to the host block."""

    def page_in(self, block: HostBlock, offsets: Sequence[int], arena: Arena, slots: Sequence[int]) -> None:
        """Copy rows `offsets` of the host block to `slots`."""

    def before_overwrite(self) -> None:
        """Make device work issued from now on wait for copies out of slots that it may overwrite."""


class DirectTransfer:
    """Arena and host tier in the same memory: a copy is done when the call returns."""

    def page_out(self, arena: Arena, slots: Sequence[int], block: HostBlock) -> None:
        """Copy a block's rows to the host."""
        for slot, offset, rows in contiguous_runs(slots, range(len(slots))):
            for plane, view in zip(arena.planes, block.views, strict=True):
                view.narrow(2, offset, rows).copy_(plane.narrow(2, slot, rows))

    def page_in(self, block: HostBlock, offsets: Sequence[int], arena: Arena, slots: Sequence[int]) -> None:
        """Copy rows back from the host."""
        for offset, slot, rows in contiguous_runs(offsets, slots):
            for plane, view in zip(arena.planes, block.views, strict=True):
                plane.narrow(2, slot, rows).copy_(view.narrow(2, offset, rows))

    def before_overwrite(self) -> None:
        """Nothing to wait for."""


class StreamTransfer:
    """Copies on a CUDA stream of their own, ordered against compute by events. Host blocks must be pinned.

    Device temporaries are made and used on the copy stream only, so the caching allocator reuses them in its order; at
    most one block's worth is alive at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._last_out: torch.cuda.Event | None = None

    def page_out(self, arena: Arena, slots: Sequence[int], block: HostBlock) -> None:
        """Queue a copy of a block's rows to pinned memory, after all compute issued so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                for slot, offset, rows in contiguous_runs(slots, range(len(slots))):
                    for plane, view in zip(arena.planes, block.views, strict=True):
                        # Gathered on the device first: a strided kernel and a bulk copy beat a copy a plane and head.
                        gathered = plane.narrow(2, slot, rows).contiguous()
                        view.narrow(2, offset, rows).copy_(gathered, non_blocking=True)
        finally:
            self._last_out = self._mark(block)

    def page_in(self, block: HostBlock, offsets: Sequence[int], arena: Arena, slots: Sequence[int]) -> None:
        """Queue a copy of rows back; compute issued afterwards waits for it on the device.

        The whole block crosses the link even when few of its rows are wanted: only a contiguous host tensor is copied
        without a pageable temporary, for which the host would have to wait.
        """
        compute = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.stream(self._stream):
                # Only writing the rows has to wait for compute; crossing the link does not.
                landed = [view.to(self._device, non_blocking=True) for view in block.views]
                self._stream.wait_stream(compute)
                for plane, staged in zip(arena.planes, landed, strict=True):
                    for offset, slot, rows in contiguous_runs(offsets, slots):
                        plane.narrow(2, slot, rows).copy_(staged.narrow(2, offset, rows), non_blocking=True)
        finally:
            # The buffer may be given up and go to a sequence with another copy stream: `free` must wait for this read.
            self._mark(block)
            compute.wait_stream(self._stream)

    def _mark(self, block: HostBlock) -> torch.cuda.Event:
        """Note on a block that it is busy until the copy stream has come this far."""
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(self._stream)
        block.busy_until = done
        return done

    def before_overwrite(self) -> None:
        """Let the compute stream wait for copies out that are still under way."""
        if self._last_out is not None:
            torch.cuda.current_stream(self._device).wait_event(self._last_out)
            self._last_out = None


def transfer_for(device: torch.device) -> Transfer:
    """The copier for a device: streamed on CUDA, direct elsewhere."""
    return StreamTransfer(device) if device.type == "cuda" else DirectTransfer()
