"""The recurrent cells: one step forward, and one step backward. Does not know products or loops.

`service/generation/kernel/recurrence.c` computes the same in C.
"""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

Columns: TypeAlias = tf.Tensor  # a value of each unit for each row, [units, rows]


class GRU:
    """Gates in Keras's order z, r, h. The reset gate is applied after the product (`reset_after=True`):

    z = sigmoid(x_z + g_z), r = sigmoid(x_r + g_r), c = tanh(x_h + r * g_h), h' = z * h + (1 - z) * c,
    with g = h @ kernel, and biases. The values with a bias are in the order x_h, z, r, g_h.
    """

    STATE = 1  # parts of a state: h
    KEPT = 4  # values of a step that the backward pass needs besides h: z, r, g_h, c
    X_GATES = (2, 0, 1)  # the gates of the input product in the order of the first values with a bias
    FIRST_RECURRENT = 1  # index of the first biased value that the recurrent product is added to

    @staticmethod
    def biases(bias: tf.Tensor) -> tf.Tensor:
        """Keras's bias [2, 3 * units], input and recurrent, as [4 * units, 1]: for x_h, z, r and g_h."""
        (x_z, x_r, x_h), (g_z, g_r, g_h) = (tf.split(part, 3) for part in tf.unstack(bias))
        return tf.concat([x_h, x_z + g_z, x_r + g_r, g_h], 0)[:, None]

    @staticmethod
    def step(
        x: Sequence[Columns], g: Sequence[Columns], bias: Sequence[Columns], h: Columns
    ) -> tuple[list[Columns], list[Columns]]:
        """(state after, values that the backward pass needs)."""
        z, r = tf.sigmoid(x[0] + g[0] + bias[1]), tf.sigmoid(x[1] + g[1] + bias[2])
        g_h = g[2] + bias[3]
        c = tf.tanh(x[2] + bias[0] + r * g_h)
        return [c + z * (h - c)], [z, r, g_h, c]

    @staticmethod
    def back(kept: Sequence[Columns], h: Columns, d_h: Columns) -> tuple[list[Columns], list[Columns]]:
        """(gradients of the values with a bias, the part of the state's gradient that does not flow through g)."""
        z, r, g_h, c = kept
        d_c = d_h * (1 - z) * (1 - c * c)
        return [d_c, d_h * (h - c) * z * (1 - z), d_c * g_h * r * (1 - r), d_c * r], [d_h * z]


class LSTM:
    """Gates in Keras's order i, f, c, o: c' = sigmoid(f) * c + sigmoid(i) * tanh(c~), h' = sigmoid(o) * tanh(c')."""

    STATE = 2  # h, c
    KEPT = 6  # i, f, the candidate, o, c, tanh(c')
    X_GATES = (0, 1, 2, 3)
    FIRST_RECURRENT = 0

    @staticmethod
    def biases(bias: tf.Tensor) -> tf.Tensor:
        """Keras's bias [4 * units] as [4 * units, 1]."""
        return bias[:, None]

    @staticmethod
    def step(
        x: Sequence[Columns], g: Sequence[Columns], bias: Sequence[Columns], _h: Columns, c: Columns
    ) -> tuple[list[Columns], list[Columns]]:
        """(state after, values that the backward pass needs)."""
        i, f, candidate, o = (sum(parts) for parts in zip(x, g, bias, strict=True))
        i, f, candidate, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(candidate), tf.sigmoid(o)
        after = f * c + i * candidate
        reached = tf.tanh(after)
        return [o * reached, after], [i, f, candidate, o, c, reached]

    @staticmethod
    def back(kept: Sequence[Columns], _h: Columns, d_h: Columns, d_c: Columns) -> tuple[list[Columns], list[Columns]]:
        """(gradients of the values with a bias, the part of the state's gradient that does not flow through g)."""
        i, f, candidate, o, c, reached = kept
        d_c += d_h * o * (1 - reached * reached)
        d_gates = [d_c * candidate * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - candidate * candidate)]
        return [*d_gates, d_h * reached * o * (1 - o)], [tf.zeros_like(d_h), d_c * f]


Cell: TypeAlias = type[GRU] | type[LSTM]
CELLS: dict[str, Cell] = {"gru": GRU, "lstm": LSTM}
