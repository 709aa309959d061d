"""The graph's side of a run: emits entries into the graph, in the graph's thread."""

import asyncio
import itertools
import json
import time
from typing import Any, Literal

from streamz import Stream

from tasks.base.ids import id_numbers
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.errors import PipelineError
from tasks.nodes.hand_over import HandOver
from tasks.nodes.in_flight import InFlight
from tasks.pipeline.graphs import graph
from tasks.pipeline.guard import Secured, combining, secure
from tasks.pipeline.part_letters import ROWS
from tasks.pipeline.receipts import Receipt
from tasks.pipeline.retry import Retry
from tasks.pipeline.timed_nodes import TimedNodes
from tasks.reservoir.entry import Entry, NodeInput
from tasks.reservoir.fence import Fence
from tasks.state.cutter import Cutter
from tasks.state.remembering import keeps_state

__all__ = ["Emitter", "OnError"]

logger = get_logger(__name__)

OnError = Literal["dead_letter", "stop"]

# A pipeline that never waits lets other tasks of its loop run after this many seconds.
_SLICE = 0.005
_LOOK = 32  # elements between two looks at the clock
_NAMED = 8  # nodes in a dead letter


class Emitter:
    """Emits one element after the other from a source node. All methods run in the graph's thread.

    fence, group   of the consumer whose entries these are
    batch          emit lists of at most this many entries; None: emit single entries
    fuse           whether runs of simple nodes are done in one call
    max_state      upper bound of the state that is kept, in bytes; None: keep none
    retry          how nodes without options of their own try failed calls again
    raises         PipelineError: the graph has a node that is not known to be safe
    """

    def __init__(
        self,
        node: Stream,
        hand_over: HandOver,
        *,
        fence: Fence,
        group: str,
        on_error: OnError,
        batch: int | None = None,
        fuse: bool = True,
        max_state: int | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.secured: Secured = secure(node, fuse=fuse, retry=retry)
        self.cutter: Cutter | None = None
        self.in_flight = InFlight(self.secured, fence, finished=self._finished, failed=self._on_failure)
        if max_state is not None and keeps_state(graph(node)):
            self.cutter = Cutter(self.secured, self.in_flight, hand_over, group=group, max_bytes=max_state)
        to: Cutter | HandOver = self.cutter or hand_over
        self._report_finished = to.report_finished
        self.secured.put_letter = to.put_letter if on_error == "dead_letter" else None
        self._report_passed, self._report_all_passed = to.report_passed, to.report_all_passed
        self._node: Any = node
        self._hand_over = hand_over
        self._group = group
        self._on_error = on_error
        self._batch = batch
        self._failing_nodes: set[str] = set()
        self._last_yield = 0.0
        self._described = -1
        self.timed = TimedNodes(())
        """The nodes that emit because time passes."""
        self._describe()

    async def run(self) -> None:
        """Emit all batches that the reader hands over, until the run is to end; then flush the nodes."""
        try:
            while not self._hand_over.is_stopping():
                await self.step()
            await self._cut_at_end()
        except BaseException as error:
            self._hand_over.fail(error)
            raise
        finally:
            self._flush_at_end()
            self._hand_over.end_emission()

    async def step(self) -> None:
        """Emit one batch, or answer a request to flush the nodes; without either, wait for one."""
        if self._hand_over.has_state:  # its windows may be due before another entry comes
            self._take_in_nodes()
        if entries := self._hand_over.take():
            await self.emit(entries)
        elif (ms := self._hand_over.take_time()) is not None:
            await self.pass_time(ms)
        elif self._hand_over.answer_flush(self.flush_nodes):
            pass
        elif self.cutter is None or not self.cutter.is_dirty:
            await self._hand_over.wait_for_work()
        elif pause := self.cutter.wait:
            await self._hand_over.wait_for_work(pause)
        else:
            self.cutter.cut()

    async def emit(self, entries: list[Entry]) -> None:
        """Emit entries, each element after the one before has been awaited. Returns early if the run is to end."""
        secured = self._take_in_nodes()
        if self.timed and entries:
            await self.timed.pass_time(id_numbers(entries[0].origin[1])[0])
        if NodeInput in map(type, entries):
            await self._emit_with_inputs(entries, secured)
        else:
            await self._emit_all(entries, secured)
        if self.timed:
            self._hand_over.due = self.timed.due

    async def _emit_with_inputs(self, entries: list[Entry], secured: Secured) -> None:
        """Emit entries in order; give those that are inputs of a node to that node."""
        for is_input, several in itertools.groupby(entries, lambda entry: type(entry) is NodeInput):
            if not is_input:
                await self._emit_all(list(several), secured)
                continue
            for entry in several:
                if self._hand_over.is_stopping():
                    return
                await self._give_to_node(entry)  # type: ignore[arg-type] - see the grouping

    async def _give_to_node(self, entry: NodeInput) -> None:
        """Give the part of an element that a node has refused to this node again."""
        emitting = self.in_flight.emitting
        emitting.entries = (entry,)
        metadata = emitting.metadata()
        node: Any = next((one.node for one in self.secured.meters if one.name == entry.node), None)
        if node is None or ROWS not in entry or entry.side >= len(node.upstreams):
            msg = f"expected a node {entry.node!r} with the rows that it has refused, got none in this pipeline; name the node as it was"
            self.secured.fail(self._node, metadata, PipelineError(msg))
        else:
            for one in node.update(entry[ROWS], who=node.upstreams[entry.side], metadata=metadata):
                await one
        self._release()

    async def _emit_all(self, entries: list[Entry], secured: Secured) -> None:
        cutter = self.cutter
        emit = secured.fusion.emitter(self._node)
        emitting, is_batch = self.in_flight.emitting, self._batch is not None
        is_stopping, report_passed = self._hand_over.is_stopping, self._report_passed
        timed = self.timed if self.timed.meet else None
        for n, element in enumerate(self._elements(entries)):
            if is_stopping():
                return
            if timed is not None and (due := timed.due) is not None:
                at = id_numbers((element[-1] if is_batch else element).origin[1])[0]
                # Before any node gets the element, which shows only to its own branch that time has passed.
                if due <= at:
                    await timed.pass_time(at)
            emitting.entries = element if is_batch else (element,)
            for one in emit(element, emitting):
                await one
            if is_batch or emitting.made:
                self._release()
            else:  # nearly all entries
                emitting.entries = ()
                report_passed(element.origin)
            # All slow elements are timed. For quick ones, reading the clock each time would cost a tenth.
            if secured.nested > _SLICE or not n % _LOOK:
                secured.nested = 0.0
                if (now := time.monotonic()) - self._last_yield > _SLICE:
                    await asyncio.sleep(0)
                    self._last_yield = time.monotonic()
                if cutter is not None and cutter.is_due(now):
                    await cutter.cut_under_load(is_stopping)

    async def pass_time(self, ms: int) -> None:
        """Let time pass for the nodes that emit by it: no entry with an id older than this can come, in ms since the epoch."""
        self._take_in_nodes()
        await self.timed.pass_time(ms)
        self._hand_over.due = self.timed.due

    def cut(self) -> None:
        """Take a cut if there is reason to, and if the graph is quiet."""
        if self.cutter is not None:
            self._adopt(self.cutter)
            self.cutter.try_cut()

    def _take_in_nodes(self) -> Secured:
        """Take in nodes that were added, and restore those whose state was loaded."""
        secured = secure(self._node)
        self._describe()
        if self.cutter is not None:
            self._adopt(self.cutter)
        return secured

    def _adopt(self, cutter: Cutter) -> None:
        """Restore the nodes that are new from the stored state."""
        if (state := self._hand_over.take_state()) is not None:
            cutter.load(state, graph(self._node))
            self._hand_over.due = self.timed.due
        else:
            cutter.adopt(graph(self._node))

    def flush_nodes(self) -> bool:
        """Have nodes write the entries that they hold for later; return whether all could."""
        calls = [getattr(meter.node, "before_stop", None) for meter in self.secured.meters]
        return False not in [call() for call in calls if call]

    async def _cut_at_end(self) -> None:
        """Take a last cut, once the graph is quiet; the reader stops waiting for it after the grace period."""
        if self.cutter is None or self._hand_over.is_abandoned:
            return
        self.flush_nodes()
        # A cut would store the effects of an element that is left to the next run, which gets all entries since the last cut.
        while not (self._hand_over.is_abandoned or self.secured.has_postponed) and not self.cutter.try_cut():
            await self._hand_over.wait_for_work(self.cutter.wait or _SLICE)

    def _flush_at_end(self) -> None:
        if self._hand_over.is_abandoned:
            return
        try:
            self.flush_nodes()
        except Exception as error:  # noqa: BLE001 - raised when the reader has left the group in good order
            self._hand_over.fail(error)

    def _elements(self, entries: list[Entry]) -> list[Any]:
        if self._batch is None:
            return entries
        return [entries[start : start + self._batch] for start in range(0, len(entries), self._batch)]

    def _release(self) -> None:
        """Release the element that was emitted last and has been awaited."""
        emitting = self.in_flight.emitting
        entries, emitting.entries = emitting.entries, ()
        if emitting.made:
            made, emitting.made = emitting.made, []
            for receipt in made:
                receipt.release()
        else:
            self._report_all_passed([entry.origin for entry in entries])

    def _describe(self) -> None:
        """Update the fields that describe the pipeline in dead letters, if the graph has changed."""
        if self._described != (version := self.secured.fusion.version):
            self._described = version
            self.timed = TimedNodes(graph(self._node))
            self._hand_over.letter_fields = {"combines": json.dumps(combining(self._node)[:_NAMED])}

    def _finished(self, receipt: Receipt) -> None:
        self._report_finished(receipt)

    def _on_failure(self, receipt: Receipt) -> None:
        if self.cutter is not None:
            self.cutter.report_failed(receipt)
        failure = receipt.failure
        assert failure is not None  # it has just been set
        self._describe()
        where = f"topic {receipt.topic!r} entry {receipt.id}" if receipt.id else "a result that belongs to no entry"
        what = f"{where}: node {failure.node!r} of group {self._group!r} raised {error_line(failure.error)}"
        if self._on_error == "stop":
            if self.cutter is not None:
                self.cutter.break_off()
            error = PipelineError(f"{what}; it stays pending and is redelivered at the next start")
            error.__cause__ = failure.error
            self._hand_over.fail(error)
        elif failure.node not in self._failing_nodes:
            self._failing_nodes.add(failure.node)
            fate = (
                "this entry and all others that fail there become dead letters"
                if receipt.id
                else "it and all others that fail there are dropped and counted as failures of the node"
            )
            logger.warning("%s; %s", what, fate)
