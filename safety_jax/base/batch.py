"""The legend of dimension letters, and the structs of batches that all layers share.

    B rows          N = 2, the pair axis     T tokens of a row      S key tokens
    V vocabulary    D model width            F MLP width            H query heads
    K kv heads      E head size              L layers               R LoRA rank
    A microbatches  C candidates per prompt  S also examples of a row
    M rows of an example: N, or 1 if its sides share a row

Every einsum and every public signature uses the same letters.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Rows of packed examples; numpy arrays on the host, jax arrays on devices.

    Leading axes are free: `[B, T]` rows, `[A, B, T]` microbatches, `[B, 2, T]` preference pairs.
    One row with two examples, of three and two tokens, and one pad. All tokens of the examples are
    trained except their first ones:

        ids        5 6 7 8 9 0
        positions  0 1 2 0 1 0
        segments   1 1 1 2 2 0
        mask       0 1 1 0 1 0

    One row with the two answers of a pair, "8 9" and "4", which both see the prompt "5 6 7". Each
    has its own copy of the prompt's last token, which predicts the answer's first:

        ids        5  6  7 8 9 7 4 0
        positions  0  1  2 3 4 2 3 0
        segments  -1 -1  1 1 1 2 2 0
        prefixes  -1 -1 -1 . . . . 0
        mask       0  0  0 1 1 0 1 0

    Attributes:
        ids: token ids.
        positions: index of the token within its own example, from 0.
        segments: 0 is padding; 1, 2, ... number the examples of a row, or their answers if these
            share the row; -1, -2, ... number the prompts that answers share. A token attends only
            within its segment and to the segment in `prefixes`.
        mask: True if the token is trained, that is, predicted from its left neighbour. The first
            token of a segment is never trained, because it has no left neighbour.
        prefixes: the segment that the token's own segment continues, or its own segment if it
            continues none. None if no segment of any row continues another. On TPUs at most two
            segments continue the same one: one with an odd and one with an even number.
        types: which of a pair of texts a token belongs to, 0 or 1, for encoders that embed it; None
            if all are 0.
    """

    ids: Int[Any, "*B T"]
    positions: Int[Any, "*B T"]
    segments: Int[Any, "*B T"]
    mask: Bool[Any, "*B T"]
    prefixes: Int[Any, "*B T"] | None = None
    types: Int[Any, "*B T"] | None = None

    @classmethod
    def one_a_row(
        cls, ids: Int[Any, "B T"], real: Bool[Any, "B T"], types: Int[Any, "B T"] | None = None
    ) -> "Tokens":
        """Right-padded rows of one example each, without trained tokens.

        ids        5 6 7 0
        real       1 1 1 0
        positions  0 1 2 3
        segments   1 1 1 0
        mask       0 0 0 0
        """
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
        untrained = jnp.zeros(ids.shape, bool)
        return cls(ids, positions, real.astype(jnp.int32), untrained, types=types)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
    """Rows of packed answers: at most S examples with N sides each. The sides of a pair are its two
    answers (chosen, rejected) to one prompt; a single answer has N = 1.

    Either every side has its own row, M = N, and segment s of all M rows is example s; or the sides
    share a row, M = 1, and side n of example s, both counted from 0, is segment N s + n + 1.

    Attributes:
        tokens: all sides; the answers' own tokens are in the mask.
        slots: the number of each example of a row within its batch; -1 without an example.
        ends: the cell of the last token of each side, in the side's row; 0 without an example.
        targets: what is known about each side: unsafe, desirable, a rating; 0 if nothing is.
        reference: the log-probability of each token of the answers under the reference, 0
            elsewhere; None if a method needs no reference, or computes it in the step.
        weights: the weight of each token of the answers, 0 elsewhere; None if all are equal.
    """

    tokens: Tokens  # [*B M T]
    slots: Int[Any, "*B S"]
    ends: Int[Any, "*B S N"]
    targets: Float[Any, "*B S N"]
    reference: Float[Any, "*B M T"] | None
    weights: Float[Any, "*B M T"] | None = None
