"""Real rows for the control plane: frames on the device, checked blocks on the host, and a run for each request."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from tenure.arbiter.decision import Decision
from tenure.claims.blocks import BlockKey
from tenure.claims.modes import Action
from tenure.errors import (
    HostTierFullError,
    InternalError,
    PoolSizeError,
    RowsLostError,
    TenureError,
    TransferError,
    UsageError,
)
from tenure.pool import HostBlock, HostTier
from tenure.pool.frames import BlockFrames, BlockRun
from tenure.runtime.control import ClaimTier, Placement, Work
from tenure.runtime.control.store import Slot
from tenure.runtime.hf.engine.faults import FaultPoint, TransferFaults


@dataclass(slots=True, eq=False)
class SavedBlock:
    """One block's rows on the host, and the checksum (CRC-32) that its bytes had when they were saved.

    `host` is None once the rows are gone.
    """

    host: HostBlock | None
    checksum: int


@dataclass(slots=True, eq=False)
class Image:
    """Everything that a paused request held: its blocks in order, of which the first `rows` rows count."""

    blocks: list[SavedBlock]
    rows: int


class DeviceRows:
    """Holds rows by block id. Implements `tenure.runtime.control.DataPlane`.

    Guarantees: rows that come back from the host are, byte for byte, those that were saved, or a `RowsLostError` says so
    and none is used; a call that raises has changed nothing. `tier` is the claims' share of the host's `host_blocks`
    blocks; what requests keep there of their own counts against the same number, except that bounded ones have
    `recall_host_blocks` to themselves where that is given. Not thread-safe.
    """

    #: Every request attends over one dense run of its own, so what another one uses has to be copied.
    shares_blocks_in_use = False

    def __init__(
        self,
        frames: BlockFrames,
        *,
        host_blocks: int,
        recall_host_blocks: int | None = None,
        faults: TransferFaults | None = None,
    ) -> None:
        if host_blocks < 0 or (recall_host_blocks is not None and recall_host_blocks < 0):
            raise UsageError(
                f"host_blocks is {host_blocks} and recall_host_blocks {recall_host_blocks}; they must be 0 (none) or more"
            )
        self.frames = frames
        self.faults = TransferFaults() if faults is None else faults
        self._pinned = frames.device.type == "cuda"
        self.host = HostTier(frames.layout, dtype=frames.dtype, pinned=self._pinned)
        self.tier = ClaimTier(
            host_blocks, verify=self.verify, discard=self.discard, borrowed=lambda: self.borrowed_blocks
        )
        self.on_begin: Callable[[Work], None] = _nobody
        self.on_leave: Callable[[Work], None] = _nobody
        self._runs: dict[str, BlockRun] = {}
        self._recall_host_blocks = recall_host_blocks
        self._recalling: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._images: dict[str, Image] = {}

    @property
    def borrowed_blocks(self) -> int:
        """Host blocks that requests in flight keep for rows of their own."""
        return sum(self._reserved.values()) + sum(len(image.blocks) for image in self._images.values())

    @property
    def recall_free_blocks(self) -> int:
        """Host blocks that bounded requests may still take: of their own, where they have such, else of the tier."""
        if self._recall_host_blocks is None:
            return self.tier.free_blocks
        return self._recall_host_blocks - sum(self._recalling.values())

    def run_of(self, work: Work) -> BlockRun:
        """The dense run of a request that was placed."""
        return self._runs[work.request_id]

    def image_rows(self, work: Work) -> int:
        """Rows of a paused request that can be brought back; 0 for any other."""
        image = self._images.get(work.request_id)
        return 0 if image is None else image.rows

    # --- requests -----------------------------------------------------------------------------------------------

    def reserve(self, work: Work, decision: Decision) -> None:
        """Take the host blocks that a bounded request will need at most. Raises `HostTierFullError`."""
        if Action.RECOMPUTE_SPLIT in decision.actions:
            return
        self.faults.check(FaultPoint.HOST_MEMORY)
        wanted = work.request.live_plan.total_blocks
        recalls = Action.BOUND_ACTIVE_LIVE in decision.actions and self._recall_host_blocks is not None
        free = self.recall_free_blocks if recalls else self.tier.free_blocks
        if wanted > free:
            raise HostTierFullError(
                f"{work.request_id} needs {wanted} host blocks for rows of its own and {free} are free"
            )
        (self._recalling if recalls else self._reserved)[work.request_id] = wanted
        self.tier.borrowed_changed()

    def place(self, work: Work, placement: Placement) -> None:
        """Bring the request's blocks side by side and fill those that need not be computed. Raises `TransferError`."""
        image = None if work.is_bounded else self._usable_image(work)
        with _transfer_errors():
            run = self.frames.open_run([slot.block_id for slot in work.slots])
        try:
            with _transfer_errors():
                for source, target in placement.copies:
                    self.frames.copy_block(source.block_id, target.block_id)
                for block_id, saved in placement.restored.items():
                    self._page_in(saved, block_id)
        except BaseException:
            self.frames.close_run(run)
            raise
        if image is not None:
            try:
                with _transfer_errors():
                    self._bring_back(image, work, placement)
            except TransferError as error:
                work.failure = str(error)
                self._drop_image(work)  # its tokens are known, so what it held is computed again
        self._runs[work.request_id] = run

    def _usable_image(self, work: Work) -> Image | None:
        """The rows that a paused request left on the host; None, and they are dropped, when they are not sound."""
        image = self._images.get(work.request_id)
        if image is None:
            return None
        try:
            for saved in image.blocks:
                self.verify(saved)
        except RowsLostError as error:
            work.failure = str(error)
            self._drop_image(work)
            return None
        return image

    def _bring_back(self, image: Image, work: Work, placement: Placement) -> None:
        there = {slot.block_id for slot in placement.adopted}
        there |= {target.block_id for _, target in placement.copies} | placement.restored.keys()
        for slot, saved in zip(work.slots, image.blocks, strict=False):
            if slot.block_id not in there:
                self._page_in(saved, slot.block_id)

    def begin(self, work: Work) -> None:
        """Tell whoever computes."""
        self.on_begin(work)

    def leave(self, work: Work) -> None:
        """Take the request's run apart and give back what it kept on the host."""
        self.on_leave(work)
        run = self._runs.pop(work.request_id, None)
        if run is not None:
            self.frames.close_run(run)
        self._drop_image(work)
        self._recalling.pop(work.request_id, None)
        if self._reserved.pop(work.request_id, 0):
            self.tier.borrowed_changed()

    def page_out_request(self, work: Work, *, rows: int) -> None:
        """Save the first `rows` rows of a running request, then take its run apart. Raises with nothing changed."""
        size = self.frames.layout.block_size
        blocks = [slot for position, slot in enumerate(work.slots) if position * size < rows]
        if len(blocks) > self.tier.free_blocks:
            raise HostTierFullError(
                f"pausing {work.request_id} needs {len(blocks)} host blocks and {self.tier.free_blocks} of "
                f"{self.tier.usable_blocks} are free; let it run on, or give the runtime more host_blocks"
            )
        saved: list[SavedBlock] = []
        try:
            saved.extend(self._save(slot) for slot in blocks)
        except BaseException:
            for block in saved:
                self.discard(block)
            raise
        self._images[work.request_id] = Image(blocks=saved, rows=rows)
        self.frames.close_run(self._runs.pop(work.request_id))
        self.tier.borrowed_changed()

    def forget_image(self, work: Work) -> None:
        """The request runs again: its rows on the host are not needed."""
        self._drop_image(work)

    def _drop_image(self, work: Work) -> None:
        image = self._images.pop(work.request_id, None)
        if image is not None:
            for saved in image.blocks:
                self.discard(saved)
            self.tier.borrowed_changed()

    # --- blocks -------------------------------------------------------------------------------------------------

    def vacate(self, block_ids: Sequence[int]) -> None:
        """Free their frames. Ids that never got one are fine."""
        self.frames.release([block_id for block_id in block_ids if block_id in self.frames])

    def add_blocks(self, blocks: int) -> None:
        """Grow the device memory. Raises `PoolSizeError` when there is none."""
        self.frames.grow(blocks)

    def save(self, key: BlockKey, slot: Slot) -> object:
        """Copy a block's rows to the host. Raises `TransferError` or `HostTierFullError`."""
        del key
        return self._save(slot)

    def _save(self, slot: Slot) -> SavedBlock:
        self.faults.check(FaultPoint.SAVE)
        host = self.host.allocate()
        try:
            with _transfer_errors():
                self.frames.page_out(slot.block_id, host)
            saved = SavedBlock(host, _checksum(host))
        except BaseException:
            self.host.free(host)
            raise
        self._spoil(saved)
        return saved

    def _spoil(self, saved: SavedBlock) -> None:
        """What a fault does to rows that lie on the host."""
        if self.faults.strikes(FaultPoint.CORRUPT) and saved.host is not None:
            saved.host.wait()
            saved.host.buffer.view(torch.uint8)[0] ^= 1
        if self.faults.strikes(FaultPoint.LOSE):
            self.discard(saved)

    def _page_in(self, saved: object, block_id: int) -> None:
        self.faults.check(FaultPoint.LOAD)
        self.frames.page_in(_host_of(saved), block_id)

    def verify(self, saved: object) -> None:
        """Raise `RowsLostError` unless the rows are there, byte for byte as they were saved. O(bytes)."""
        host = _host_of(saved)
        if isinstance(saved, SavedBlock) and _checksum(host) != saved.checksum:
            raise RowsLostError(
                "the checksum of rows on the host is not the one they were saved with; they are not used"
            )

    def discard(self, saved: object) -> None:
        """Free the host block of saved rows."""
        if isinstance(saved, SavedBlock) and saved.host is not None:
            self.host.free(saved.host)
            saved.host = None

    def check_invariants(self) -> None:
        """Raise `InternalError` unless frames and host are sound, and the host holds no block that nobody keeps."""
        self.frames.check_invariants()
        self.host.check_invariants()
        kept = self.tier.held_blocks + sum(len(image.blocks) for image in self._images.values())
        used = self.host.statistics().used_blocks
        if used > kept:  # fewer, where a fault lost some
            raise InternalError(f"the host holds {used} blocks, and claims and paused requests keep {kept}")


def _host_of(saved: object) -> HostBlock:
    if not isinstance(saved, SavedBlock) or saved.host is None:
        raise RowsLostError("rows on the host are gone")
    return saved.host


def _checksum(host: HostBlock) -> int:
    host.wait()
    return zlib.crc32(memoryview(host.buffer.view(torch.uint8).numpy()))  # type: ignore[arg-type]  # numpy arrays are


@contextlib.contextmanager
def _transfer_errors() -> Iterator[None]:
    """What a device raises when a copy fails is a failed transfer."""
    try:
        yield
    except PoolSizeError as error:  # no memory for the few blocks that must step aside while others pass
        raise TransferError(f"blocks could not be brought side by side: {error}") from error
    except TenureError:
        raise
    except RuntimeError as error:
        raise TransferError(f"a copy between device and host failed: {error}") from error


def _nobody(work: Work) -> None:
    """Until an engine listens."""
