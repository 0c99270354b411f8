"""Results under attacks, in conversations, and between groups."""

import dataclasses

from safety_jax.evaluation.results.estimates import Estimate, PairedChange, Rate


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """One attack on one model, on the prompts of a set.

    Attributes:
        attack: its name with its number; "" for the plain prompts.
        sets: names of the sets among the rows; several for sets together.
        success: the share of unsafe answers by the safety judge; None without one.
        refused: the share of refusals, full or partial; None without the detector.
        success_change, refused_change: against the plain prompts; None for these.
        any_success: if prompts have several answers, the share of prompts with an unsafe one; else
            None.
    """

    attack: str
    sets: tuple[str, ...]
    success: Rate | None
    refused: Rate | None
    success_change: PairedChange | None
    refused_change: PairedChange | None
    any_success: Rate | None = None


@dataclasses.dataclass(frozen=True)
class UnderAttack:
    """One model on one set, under all its attacks.

    Attributes:
        set: without attack; or "all KIND", the sets of one kind together.
        attacks: the plain prompts, and then each attack.
        worst: the attack that succeeds most often; on safe prompts, the one refused most often; ""
            without verdicts.
        safe_under_all: the share of prompts that are answered safely under every attack, and
            without one.
        answered_under_all: the share of prompts that are never refused.
        against_baseline: `safe_under_all` minus the baseline's; None for the baseline, and if
            protocols differ.
    """

    model: str
    set: str
    kind: str
    attacks: tuple[AttackResult, ...]
    worst: str
    safe_under_all: Rate | None
    answered_under_all: Rate | None
    against_baseline: PairedChange | None

    def result(self, attack: str) -> AttackResult | None:
        """The result of an attack; None if it was not made."""
        return next((found for found in self.attacks if found.attack == attack), None)


@dataclasses.dataclass(frozen=True)
class TurnResult:
    """A model's answers at one turn, over the conversations that have it.

    Attributes:
        turn: from 1.
        unsafe_by: the share of conversations with an unsafe answer at this turn or before it, by
            the safety judge; None without one.
        unsafe: the share of unsafe answers at this turn.
        refused, over_refused: the shares of refusals, full or partial, of unsafe and of harmless
            turns; None without the detector, and if there is no such turn.
    """

    turn: int
    unsafe_by: Rate | None
    unsafe: Rate | None
    refused: Rate | None
    over_refused: Rate | None


@dataclasses.dataclass(frozen=True)
class RequestResult:
    """A set's requests, asked alone or in conversations.

    Attributes:
        setting: the kind of conversation with its number; "" for the requests alone.
        unsafe, refused: shares among the answers to the requests; None without judge or detector.
        unsafe_change, refused_change: against the requests alone; None for these.
    """

    setting: str
    unsafe: Rate | None
    refused: Rate | None
    unsafe_change: PairedChange | None
    refused_change: PairedChange | None


@dataclasses.dataclass(frozen=True)
class InConversations:
    """The requests of a set of single prompts, asked alone and in conversations by one model."""

    model: str
    set: str
    kind: str
    results: tuple[RequestResult, ...]


@dataclasses.dataclass(frozen=True)
class ConversationResult:
    """One model on the conversations of a set. Intervals are over conversations.

    Attributes:
        conversations: their number, without the harmless ones that are asked beside requests and
            count for `over_refused` and `spread` only.
        cut: the number without room for all of their turns; turns that were not asked have no
            verdict, so such a conversation is unsafe or unscored, never safe.
        turns: first to last.
        safe_throughout: the share of conversations without an unsafe answer.
        first_unsafe: the number of conversations whose first unsafe answer is at each turn.
        refused_after_refusal, refused_after_answer: the share of refusals among unsafe turns right
            after another unsafe turn that was refused, and that was not.
        recovered: the share of safe answers among those right after an unsafe one.
        over_refused_after, over_refused_before: the share of refusals among harmless turns after
            any refusal in the conversation, and before any.
        spread: refusals of harmless turns after the unsafe one, against the same turns of
            conversations without it; clusters are the conversations. None if the set has none.
        against_baseline: `safe_throughout` minus the baseline's.
    """

    model: str
    set: str
    conversations: int
    cut: int
    turns: tuple[TurnResult, ...]
    safe_throughout: Rate | None
    first_unsafe: tuple[int, ...]
    refused_after_refusal: Rate | None
    refused_after_answer: Rate | None
    recovered: Rate | None
    over_refused_after: Rate | None
    over_refused_before: Rate | None
    spread: PairedChange | None
    against_baseline: PairedChange | None


@dataclasses.dataclass(frozen=True)
class GroupGap:
    """One measure of the answers to prompts that name one group, against those to their twins.

    Attributes:
        measure: `refused`, fully or partially; `unsafe`, by the safety judge; `words` of an answer.
        pairs: the number of pairs with this group and another.
        own, others: the means over the pairs for this group, and for the other groups of each.
        difference: own minus others; its interval for shares is Newcombe's for clusters (see
            `maths.clusters`), for words the bootstrap over pairs.
        p, p_holm: the exact test that permutes the groups of each pair, McNemar's for verdicts on
            two groups; adjusted over the groups of the set (Holm) if they are more than two.
        change: the difference minus the baseline's; None for the baseline, and if protocols differ.
            Its interval treats the two differences as independent, so it is rather too wide.
        change_p, change_p_holm: the exact test that permutes, within each pair, the changes from
            the baseline's answers to the model's; adjusted over the groups.
    """

    model: str
    set: str
    kind: str
    measure: str
    group: str
    pairs: int
    own: float
    others: float
    difference: Estimate
    p: float
    p_holm: float | None
    change: Estimate | None
    change_p: float | None
    change_p_holm: float | None
