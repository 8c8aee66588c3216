"""Copies, and the order that a stream's copies must keep: written down by a CUDA that only takes notes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from pool_rows import MIXED, assert_host_block_is, assert_rows_are, layer_rows
from tenure.pool import Arena, DirectTransfer, HostTier, StreamTransfer, Transfer, layout_for, transfer_for

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NotedCuda:
    """Streams and events that write down what was queued, in the order in which the host queued it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        cuda = self

        class Stream:
            def __init__(self, device: object = None, *, name: str = "copy") -> None:
                self.name = name

            def wait_stream(self, other: Stream) -> None:
                cuda.notes.append(f"{self.name} waits for {other.name}")

            def wait_event(self, event: Event) -> None:
                cuda.notes.append(f"{self.name} waits for event {event.number}")

        class Event:
            count = 0

            def __init__(self) -> None:
                self.number = Event.count
                Event.count += 1

            def record(self, stream: Stream) -> None:
                cuda.notes.append(f"event {self.number} on {stream.name}")

            def synchronize(self) -> None:
                cuda.notes.append(f"host waits for event {self.number}")

        self.Stream, self.Event = Stream, Event
        self.compute = Stream(name="compute")

    def current_stream(self, device: object = None) -> Any:
        return self.compute

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.notes.append(f"begin {stream.name}")
        yield
        self.notes.append(f"end {stream.name}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> NotedCuda:
    noted = NotedCuda()
    for name in ("Stream", "Event", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(noted, name))
    return noted


def written_arena(
    *, dtype: torch.dtype = torch.float16, device: str = "cpu", pinned: bool = False
) -> tuple[Arena, HostTier]:
    layout = layout_for(MIXED.geometry(dtype), block_size=4)
    arena = Arena(layout, capacity_rows=16, dtype=dtype, device=device)
    for ordinal in range(len(MIXED.layers)):
        keys, values = layer_rows(MIXED, ordinal, positions=range(12), versions=[1] * 12, dtype=dtype)
        arena.write(ordinal, 0, keys.to(device), values.to(device))
    arena.append_positions(0, 12)
    return arena, HostTier(layout, dtype=dtype, pinned=pinned)


def copiers() -> list[Any]:
    return [pytest.param(DirectTransfer, id="direct"), pytest.param(lambda: StreamTransfer(torch.device("cpu")))]


@pytest.mark.parametrize("make", copiers())
@pytest.mark.parametrize("slots", [[4, 5, 6, 7], [7, 4, 0, 1], [11, 9, 7, 5]])
def test_a_block_goes_out_and_comes_back_to_any_slots_bit_for_bit(make: Any, slots: list[int], cuda: NotedCuda) -> None:
    transfer: Transfer = make()
    arena, host = written_arena()
    block = host.allocate()
    transfer.page_out(arena, range(4, 8), block)
    assert_host_block_is(arena, MIXED, _at(block), first=4, versions=[1] * 4)
    transfer.page_in(block, range(4), arena, slots)
    assert_rows_are(arena, MIXED, slots=slots, positions=range(4, 8), versions=[1] * 4)
    transfer.page_in(block, [0, 2, 3], arena, [15, 12, 13])
    assert_rows_are(arena, MIXED, slots=[15, 12, 13], positions=[4, 6, 7], versions=[1] * 3)
    untouched = [slot for slot in range(12) if slot not in slots]
    assert_rows_are(arena, MIXED, slots=untouched, positions=untouched, versions=[1] * len(untouched))


def _at(block: Any) -> Any:
    block.wait()
    return block


def test_a_copy_out_waits_for_the_forward_that_wrote_the_rows(cuda: NotedCuda) -> None:
    transfer = StreamTransfer(torch.device("cpu"))
    arena, host = written_arena()
    transfer.page_out(arena, range(4), host.allocate())
    assert cuda.notes == ["copy waits for compute", "begin copy", "end copy", "event 0 on copy"]


def test_slots_are_overwritten_only_after_the_copy_out_of_them(cuda: NotedCuda) -> None:
    transfer = StreamTransfer(torch.device("cpu"))
    arena, host = written_arena()
    transfer.before_overwrite()
    assert cuda.notes == []
    transfer.page_out(arena, range(4), host.allocate())
    transfer.page_out(arena, range(4, 8), host.allocate())
    cuda.notes.clear()
    transfer.before_overwrite()
    transfer.before_overwrite()
    assert cuda.notes == ["compute waits for event 1"]


def test_attention_waits_for_a_copy_in_and_the_copy_in_for_earlier_attention(cuda: NotedCuda) -> None:
    transfer = StreamTransfer(torch.device("cpu"))
    arena, host = written_arena()
    block = host.allocate()
    transfer.page_in(block, range(4), arena, range(4))
    # The link is crossed before the wait: only writing into the arena has to come after earlier attention.
    assert cuda.notes == [
        "begin copy",
        "copy waits for compute",
        "end copy",
        "event 0 on copy",
        "compute waits for copy",
    ]


def test_a_buffer_that_is_being_read_is_not_handed_to_another_sequence(cuda: NotedCuda) -> None:
    # A crop pages a block in and gives its buffer up; the next owner may copy on another stream.
    transfer = StreamTransfer(torch.device("cpu"))
    arena, host = written_arena()
    block = host.allocate()
    transfer.page_in(block, range(4), arena, range(4))
    cuda.notes.clear()
    host.free(block)
    assert cuda.notes == ["host waits for event 0"]
    host.allocate()
    assert cuda.notes == ["host waits for event 0"]


@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_copy_that_fails_half_way_still_marks_the_buffer_as_busy(direction: str, cuda: NotedCuda) -> None:
    transfer = StreamTransfer(torch.device("cpu"))
    arena, host = written_arena()
    block = host.allocate()
    out = partial(transfer.page_out, arena, range(14, 18), block)
    fails = out if direction == "out" else partial(transfer.page_in, block, range(4), arena, range(14, 18))
    with pytest.raises((RuntimeError, IndexError)):
        fails()
    assert block.busy_until is not None


def test_the_decode_path_never_blocks_the_host(cuda: NotedCuda) -> None:
    transfer = StreamTransfer(torch.device("cpu"))
    arena, host = written_arena()
    for first in (0, 4, 8):
        transfer.before_overwrite()
        transfer.page_out(arena, range(first, first + 4), host.allocate())
    assert not [note for note in cuda.notes if note.startswith("host")]


def test_the_copier_fits_the_device() -> None:
    assert isinstance(transfer_for(torch.device("cpu")), DirectTransfer)


@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_a_block_goes_out_and_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    transfer = transfer_for(torch.device("cuda"))
    assert isinstance(transfer, StreamTransfer)
    arena, host = written_arena(dtype=dtype, device="cuda", pinned=True)
    block = host.allocate()
    assert block.buffer.is_pinned()
    transfer.page_out(arena, range(4, 8), block)
    transfer.before_overwrite()
    arena.poison(range(4, 8))
    transfer.page_in(block, range(4), arena, [7, 4, 14, 12])
    block.wait()
    held = [plane.cpu() for plane in arena.planes]
    for plane, view in zip(held, block.views, strict=True):
        integers = torch.int32 if dtype.itemsize == 4 else torch.int16
        index = torch.tensor([7, 4, 14, 12])
        assert torch.equal(plane.index_select(2, index).view(integers), view.view(integers))


@NEEDS_GPU
def test_on_a_gpu_slots_may_be_reused_at_once_while_copies_are_under_way() -> None:
    device = torch.device("cuda")
    layout = layout_for(MIXED.geometry(torch.float32), block_size=512)
    arena = Arena(layout, capacity_rows=2048, dtype=torch.float32, device=device)
    host = HostTier(layout, dtype=torch.float32, pinned=True)
    transfer = StreamTransfer(device)
    blocks = []
    for value in range(32):
        transfer.before_overwrite()
        for plane in arena.planes:
            plane[:, :, :512].fill_(float(value))
        block = host.allocate()
        transfer.page_out(arena, range(512), block)
        blocks.append(block)
    for value, block in enumerate(blocks):
        block.wait()
        assert (block.buffer == float(value)).all()
