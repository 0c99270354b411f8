"""What an evaluation comes to, as plain data: the whole of `report.json`, and what the reports and
plots are drawn from.

A number is never alone: a rate has its interval and what it leaves out, a comparison its test, its
number of pairs and the smallest difference it could have seen.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of items, with its 95% Wilson interval.

    Attributes:
        count, n: hits, and items that could be judged.
        value, low, high: count / n and its interval; None where n is 0.
        unscored: further items that no verdict exists for.
        least, most: the share of all items if every unscored one were no hit, or a hit.
    """

    count: int
    n: int
    value: float | None
    low: float | None
    high: float | None
    unscored: int
    least: float | None
    most: float | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, median or difference with its 95% interval, from n items; None where n is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class AnyUnsafe:
    """Best-of-n sampling: whoever asks n times succeeds where any answer is unsafe.

    Attributes:
        prompts: the share of prompts with an unsafe answer among all n; a prompt is unscored where
            an answer has no verdict and none is unsafe.
        curve: for k = 1 ... n the mean chance that any of k answers is unsafe, by the unbiased
            estimator (`statistics.any_of`), over the prompts whose answers all have a verdict;
            Wilson's interval of a mean over prompts. Of these prompts, the last is their share.
    """

    prompts: Rate
    curve: tuple[Estimate, ...]


@dataclasses.dataclass(frozen=True)
class JudgedRates:
    """What one judge says of one model's answers to one set.

    Attributes:
        safe: None where the judge does not divide safe from unsafe.
        engaged: safe and not refused at all; None without verdicts of both kinds.
        mean, median: of the scores.
        reasons: why items are unscored, and how many.
        any_unsafe: None of one answer a prompt, and where the judge does not divide.
    """

    safe: Rate | None
    engaged: Rate | None
    mean: Estimate
    median: Estimate
    unscored: int
    reasons: Mapping[str, int]
    any_unsafe: AnyUnsafe | None = None


@dataclasses.dataclass(frozen=True)
class Refused:
    """Shares of answers that refuse fully, partially, or at all."""

    full: Rate
    partial: Rate
    any: Rate


@dataclasses.dataclass(frozen=True)
class Degenerate:
    """Shares of answers that are no answers: empty, cut off at the limit or inside the thought, or
    one phrase over and over. `truncated` is None where nobody recorded how answers ended."""

    empty: Rate
    truncated: Rate | None
    repeated: Rate


@dataclasses.dataclass(frozen=True)
class Category:
    """The items of one category: safe shares by judge, refusals; of sets with a key the share of
    right answers, None for others."""

    n: int
    safe: Mapping[str, Rate]
    refused: Refused | None
    accuracy: Rate | None = None


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One model on one set.

    Attributes:
        protocol: 16 hex digits of everything the answers depend on beside the weights: template,
            decoding, seed, the set's checksum. Rows of different protocols are not compared.
        judged: by judge.
        refused: by the refusal detector; None where none ran.
        categories: by name; empty where the set has none.
        words: median length of an answer.
        overlap: BLEU and ROUGE-L against the reference answers; empty where there are none.
        choice: of sets with a key: accuracy, and the checks beside it; empty for other kinds.
        n, prompts: answers, and the prompts that they are to; every interval is one of prompts, the
            answers to each drawn together. None: as many prompts as answers.
    """

    model: str
    set: str
    kind: str
    n: int
    protocol: str
    judged: Mapping[str, JudgedRates]
    refused: Refused | None
    degenerate: Degenerate
    categories: Mapping[str, Category]
    words: Estimate
    overlap: Mapping[str, Estimate]
    choice: Mapping[str, Any]
    prompts: int | None = None

    @property
    def answers_per_prompt(self) -> int:
        return self.n // self.prompts if self.prompts else 1


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same prompts.

    Attributes:
        first, second: models; `first` is the baseline.
        set: a set, or "all KIND": the sets of one kind together.
        measure: what is compared: `safe/JUDGE`, `refused`, `engaged/JUDGE`, `mean/JUDGE`,
            `median/JUDGE`, `accuracy`.
        n, answers: prompts that both have a value for, and how many answers of each model are
            compared there; None: as many.
        difference: second minus first, with its 95% interval; of shares by Newcombe's method 10,
            of scores by the paired bootstrap; of several answers a prompt see `maths.clusters`.
        method: the test, in words.
        p, p_holm: exact McNemar, or of several answers a prompt the exact test that flips signs, or
            bootstrap; adjusted over the sets of one measure (Holm).
        fixed, broken: ids of items whose verdict turned to the better, or the worse, of several
            answers in sum; empty for scores and for measures that are neither good nor bad.
        detectable: the smallest difference that would be found with power 0.8 at level 0.05.
        margin, noninferior: the margin that was set, and whether the interval stays above it; None
            where none was asked for.
        forced: protocols differ, and the config asked to compare nevertheless.
        refused_because: why there is no comparison; "" where there is one.
    """

    first: str
    second: str
    set: str
    measure: str
    n: int
    first_value: float | None
    second_value: float | None
    difference: Estimate
    method: str
    p: float | None
    p_holm: float | None
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    detectable: float | None
    margin: float | None
    noninferior: bool | None
    forced: bool
    refused_because: str
    answers: int | None = None


@dataclasses.dataclass(frozen=True)
class Preference:
    """A model's answers beside the baseline's, by a judge that reads both, in both orders.

    Attributes:
        first, second: models; `first` is the baseline.
        set: a set, or "all sets".
        n: prompts with an outcome; `wins`, `losses` and `ties` are their ids.
        wins, losses: the judge prefers the answer of `second`, or of `first`, in both orders.
        ties: the verdict turned with the order, or there was none; or the two answers are the same.
        alike: of the ties, prompts whose answers are the same, about which nobody was asked.
        win_rate: the share of prompts on which the answer of `second` has a probability of more
            than one half of being better, by the mean over both orders; one half of such is a half
            win. Wilson's interval.
        shown_first: the share of single comparisons, two a prompt, in which the answer that was
            shown first is preferred; of a judge without position bias, one half. Its interval is
            Newcombe's of the paired difference between the orders.
        flips: the share of prompts on which the verdict turned with the order.
        unscored: prompts without an outcome, because either order has no score; `reasons` says why.
        forced, refused_because: see `Comparison`.
    """

    judge: str
    first: str
    second: str
    set: str
    n: int
    wins: tuple[str, ...]
    losses: tuple[str, ...]
    ties: tuple[str, ...]
    alike: int
    win_rate: Estimate
    shown_first: Estimate
    flips: Rate
    unscored: int
    reasons: Mapping[str, int]
    forced: bool
    refused_because: str


@dataclasses.dataclass(frozen=True)
class PairedChange:
    """A share on the same prompts, before and after.

    Attributes:
        n: prompts that both have a verdict for.
        difference: after minus before, with its interval, as of `Comparison`.
        gained, lost: prompts that turned to a hit, or from one.
        p, p_holm: exact McNemar, or of several answers a prompt the exact test that flips signs;
            adjusted over the attacks (Holm), None where there is one test only.
        detectable: see `Comparison`.
    """

    n: int
    difference: Estimate
    gained: int
    lost: int
    p: float
    p_holm: float | None
    detectable: float | None


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """One attack on one model, on the prompts of a set.

    Attributes:
        attack: its name with its number; "" for the prompts as they stand.
        sets: under which names the answers are among the rows; several where sets are together.
        success: the share of unsafe answers by the safety judge; None without one.
        refused: the share of refusals, full or partial; None without the detector.
        success_change, refused_change: against the prompts as they stand; None for these.
        any_success: of several answers a prompt, the share of prompts with an unsafe one; else
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
        worst: the attack that succeeds most often; on safe prompts, that is refused most often; ""
            without verdicts.
        safe_under_all: the share of prompts that are answered safely under every attack, and
            without one.
        answered_under_all: the share of prompts that are never refused.
        against_baseline: `safe_under_all` minus the baseline's; None for the baseline, and where
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
        """What one attack does; None where it was not made."""
        return next((found for found in self.attacks if found.attack == attack), None)


@dataclasses.dataclass(frozen=True)
class TurnResult:
    """What a model said at one turn of the conversations that have so many.

    Attributes:
        turn: from 1.
        unsafe_by: the share of conversations with an unsafe answer at this turn or before it, by
            the safety judge; None without one.
        unsafe: the share of unsafe answers at this turn.
        refused: of turns that ask for something unsafe, the share of refusals, full or partial.
        over_refused: of the other turns, the same. Both are None without the detector, and where
            there is no such turn.
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
        unsafe, refused: shares of the answers to the requests; None without judge or detector.
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
    """One model in the conversations of a set. Intervals count conversations.

    Attributes:
        conversations: how many there are; without the harmless ones that are asked beside requests,
            which count for `over_refused` and `spread` alone.
        turns: first to last.
        safe_throughout: the share of conversations without an unsafe answer.
        first_unsafe: how many conversations have their first unsafe answer at each turn.
        refused_after_refusal, refused_after_answer: of turns that ask for something unsafe right
            behind another such turn, the share of refusals where that one was refused, and where
            it was not.
        recovered: of the answers behind an unsafe one, the share that are safe.
        over_refused_after, over_refused_before: of turns that ask for nothing unsafe, the share of
            refusals behind a refusal of whatever turn, and before there is any.
        spread: refusals of harmless turns behind the unsafe one, against the same turns of
            conversations without it; clusters are the conversations. None where a set has no such.
        against_baseline: `safe_throughout` minus the baseline's.
    """

    model: str
    set: str
    conversations: int
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
        pairs: how many name this group, and another.
        own, others: the mean over the pairs: this group's, and that of the other groups of each.
        difference: own minus others, with its interval: of shares from Wilson's of both and their
            correlation, as of clusters; of words by the bootstrap over pairs.
        p, p_holm: the exact test that exchanges the groups of each pair, McNemar's for verdicts on
            two groups; adjusted over the groups of the set (Holm).
        change: the difference minus the baseline's; None for the baseline, and where protocols
            differ. Its interval is that of two independent differences, which is too wide rather
            than too narrow.
        change_p, change_p_holm: the exact test that exchanges, within each pair, what changed from
            the baseline's answer to the model's; adjusted over the groups.
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


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two judges on the same answers; or a judge and people.

    Attributes:
        n: answers that both judged.
        share: of equal verdicts.
        kappa: Cohen's; None where one of them never changes its verdict, or has none.
        auc: how well the scores of `first` tell the verdicts of `second`.
        pearson, spearman: of the scores.
    """

    first: str
    second: str
    n: int
    share: Rate | None
    kappa: Estimate | None
    auc: float | None
    pearson: float | None
    spearman: float | None


@dataclasses.dataclass(frozen=True)
class Quality:
    """A judge against people, on the answers that both gave a verdict on.

    Attributes:
        precision: of what the judge calls unsafe, the share that people call unsafe.
        recall: of what people call unsafe, the share that the judge finds.
        specificity: of what people call safe, the share that the judge lets pass.
    """

    precision: Rate
    recall: Rate
    specificity: Rate


@dataclasses.dataclass(frozen=True)
class TranscriptScore:
    """One judgement of one answer: see `scoring.judge.Score`; `unsafe` is None where the judge does
    not say."""

    value: float | None
    label: str
    unsafe: bool | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer as it is shown.

    Attributes:
        thought: what a reasoning model wrote before the answer; "" where it wrote none.
        text: the answer itself. Both are hostile until escaped.
        finish: "eos", "stop", "length", "thought" where the model never came to an answer; "" where
            it was read from a file that does not say.
        refusal: "full", "partial", "none"; "" where nobody judged it.
        choice: the letter read out of it; "" where none, or for other kinds.
        human: what people called it: "safe", "unsafe"; or "".
    """

    thought: str
    text: str
    finish: str
    refusal: str
    scores: Mapping[str, TranscriptScore]
    choice: str
    human: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """An item of a set with the answers of all models.

    Attributes:
        asked: what was asked in place of the prompt, where an attack reworded it or began the
            answer; else "".
    """

    set: str
    id: str
    kind: str
    category: str
    prompt: str
    reference: str
    answers: Mapping[str, Answer]
    asked: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        title: of the run.
        baseline: the model that the others are compared with.
        safety, helpfulness: judges that the summary shows; "" where there is none.
        models: name to facts: path, weights_sha256, how answers came to be (template, decoding).
        sets: name to facts: kind, items, sha256, licence, source, twin; of one under an attack,
            also attack, attack_version, and in `plain` the set without it; of conversations that
            were made of a set, `setting` and `plain`.
        judges: name to its card (`dataclasses.asdict(Card)`) and `protocol`.
        rows: by model, then set.
        comparisons: of every model with the baseline.
        derived: model to measures that need several sets or models: `refusal_discrimination`,
            `twin_gap/JUDGE`, `question_gap/JUDGE`, `win_rate/JUDGE`, ...
        agreement: of judges, and with people.
        corrected: safe shares corrected for a judge's errors, where people labelled a sample: model
            to set to estimate.
        notes: sentences that a reader must know: what was left out, forced, or is doubtful.
        transcripts: items in the order of the sets.
        facts: command, versions, seed, date.
        quality: of judges, where people labelled a sample.
        preferences: of every model and the baseline, where a judge compared their answers: by set,
            and of several sets together.
        attacks: by model and set, for sets that were put under attacks.
        conversations: by model and set, for sets of conversations of several turns.
        requests: by model and set, for sets whose requests were put into conversations.
        groups: by model, set, measure and group, for sets of twin prompts.
    """

    title: str
    baseline: str
    safety: str
    helpfulness: str
    models: Mapping[str, Mapping[str, Any]]
    sets: Mapping[str, Mapping[str, Any]]
    judges: Mapping[str, Mapping[str, Any]]
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]
    derived: Mapping[str, Mapping[str, Estimate]]
    agreement: tuple[Agreement, ...]
    corrected: Mapping[str, Mapping[str, Estimate]]
    notes: tuple[str, ...]
    transcripts: tuple[Transcript, ...]
    facts: Mapping[str, Any]
    quality: Mapping[str, Quality] = dataclasses.field(default_factory=dict)
    preferences: tuple[Preference, ...] = ()
    attacks: tuple[UnderAttack, ...] = ()
    conversations: tuple[ConversationResult, ...] = ()
    requests: tuple[InConversations, ...] = ()
    groups: tuple[GroupGap, ...] = ()

    def row(self, model: str, name: str) -> ResultRow | None:
        """The row of a model and a set, if there is one."""
        return next((row for row in self.rows if (row.model, row.set) == (model, name)), None)
