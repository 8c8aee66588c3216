"""The rules of a KV cache, as data: each has an id, one sentence, and a word on how it breaks.

Rules of origin `DEFINITION` say what a KV cache is, whoever builds it. Rules of origin `INTERFACE` say what a caller
depends on when the cache can also be asked, rolled back, forked, reset, and may refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class RuleId(Enum):
    """The stable names of the rules; they appear in verdicts, files and documents."""

    APPEND = "KV-APPEND"
    ONE_WRITE = "KV-ONE-WRITE"
    LAYER_ORDER = "KV-LAYER-ORDER"
    STEP_ORDER = "KV-STEP-ORDER"
    LAYER_ISOLATION = "KV-LAYER-ISOLATION"
    SEQUENCE_ISOLATION = "KV-SEQUENCE-ISOLATION"
    FINISHED = "KV-FINISHED"
    READ_COMPLETE = "KV-READ-COMPLETE"
    ALIGNMENT = "KV-ALIGNMENT"
    HEADS = "KV-HEADS"
    ACCOUNT = "KV-ACCOUNT"
    ROLLBACK = "KV-ROLLBACK"
    FORK = "KV-FORK"
    RESET = "KV-RESET"
    REFUSAL = "KV-REFUSAL"


class Origin(Enum):
    """Where a rule comes from."""

    DEFINITION = "what a KV cache is"
    INTERFACE = "what its callers depend on"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `sentence` is normative, `breaks_when` says what a violation looks like."""

    id: RuleId
    origin: Origin
    sentence: str
    breaks_when: str


_ALL = (
    Rule(
        id=RuleId.APPEND,
        origin=Origin.DEFINITION,
        sentence="A written row never changes, and a new row goes directly after the last one.",
        breaks_when="a row read again has other bytes, or a write leaves a gap or lands on an existing row",
    ),
    Rule(
        id=RuleId.ONE_WRITE,
        origin=Origin.DEFINITION,
        sentence="A step writes every sequence in it exactly once in every layer.",
        breaks_when="a row is stored twice, a layer is written twice in a step, or a write within capacity is refused",
    ),
    Rule(
        id=RuleId.LAYER_ORDER,
        origin=Origin.DEFINITION,
        sentence="Within a step, layer l has written before it is read and before layer l + 1 writes.",
        breaks_when="a layer is read or counted as written before its write, or layers write out of order",
    ),
    Rule(
        id=RuleId.STEP_ORDER,
        origin=Origin.DEFINITION,
        sentence="Step t is complete in every layer before step t + 1 begins.",
        breaks_when="between two steps one layer holds fewer rows than another, or a step overtakes an unfinished one",
    ),
    Rule(
        id=RuleId.LAYER_ISOLATION,
        origin=Origin.DEFINITION,
        sentence="A layer reads only rows that the same layer wrote.",
        breaks_when="a row that another layer wrote is read",
    ),
    Rule(
        id=RuleId.SEQUENCE_ISOLATION,
        origin=Origin.DEFINITION,
        sentence="A sequence reads only rows that it wrote or inherited.",
        breaks_when="a row that another sequence wrote is read",
    ),
    Rule(
        id=RuleId.FINISHED,
        origin=Origin.DEFINITION,
        sentence="A finished sequence is not extended, and the others of its ragged batch go on.",
        breaks_when="a finished sequence is written, or rows of the others are lost when one finishes or leaves",
    ),
    Rule(
        id=RuleId.READ_COMPLETE,
        origin=Origin.DEFINITION,
        sentence="A read at step t sees every row up to step t that the cache claims to hold.",
        breaks_when="a row in reach of the layer, or claimed, is not there to be read",
    ),
    Rule(
        id=RuleId.ALIGNMENT,
        origin=Origin.DEFINITION,
        sentence="Padding, alignment and placement never change meaning: what is read as position p was written as p.",
        breaks_when="padding or a row of another position of the same sequence is read in a row's place",
    ),
    Rule(
        id=RuleId.HEADS,
        origin=Origin.DEFINITION,
        sentence="All heads of a row, its keys and its values, belong to the same write.",
        breaks_when="one head, or the values beside the keys, shows another row",
    ),
    Rule(
        id=RuleId.ACCOUNT,
        origin=Origin.INTERFACE,
        sentence="What a cache says about itself is true: counts and announced sizes agree with what it returns.",
        breaks_when="a row count is wrong, or a read returns more or fewer rows than were announced for it",
    ),
    Rule(
        id=RuleId.ROLLBACK,
        origin=Origin.INTERFACE,
        sentence="Cropping n rows takes back the last n rows and no others.",
        breaks_when="a cropped row is read, another row is lost, the count is off, or an offered crop fails",
    ),
    Rule(
        id=RuleId.FORK,
        origin=Origin.INTERFACE,
        sentence="A fork inherits every row of its parent, and neither sees what the other writes later.",
        breaks_when="an inherited row is missing or changed after a reorder or a repeat, or an offered fork fails",
    ),
    Rule(
        id=RuleId.RESET,
        origin=Origin.INTERFACE,
        sentence="After a reset nothing written before can be read, and new sequences begin at position 0.",
        breaks_when="an old row is read, a count is not 0, or the next prefill fails",
    ),
    Rule(
        id=RuleId.REFUSAL,
        origin=Origin.INTERFACE,
        sentence="A refused operation changes nothing.",
        breaks_when="after an operation that raised, counts or rows are not what they were before it",
    ),
)

#: Every rule by its id, in the order of the documents.
RULES: Mapping[RuleId, Rule] = MappingProxyType({rule.id: rule for rule in _ALL})
