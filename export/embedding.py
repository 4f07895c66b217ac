"""`embed`: token and position embeddings, and the context: what segments read besides hidden states.

Masks, rotary tables and the like depend on the batch or its length only, so they are made once here, not in
every segment. Each maker turns the attention mask, float32 [B,T], into one tensor that segments get by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from device_runtime.errors import BundleError

# Added to a score that must not count. exp(score - 1e9) is exactly 0 in float32, and a row without any real
# token stays finite (it has weight 0 and must not become NaN).
MASKED = -1.0e9


class Embed(nn.Module):
    """Looks up tokens, scales, projects, adds positions, normalises: what the family does of that.

    Args:
        words: float32 [V, E].
        context: name → maker of one context tensor; in the order in which the segments take them.
        positions: makes float32 [1 or B, T, E] of the attention mask.
        before: a projection of the words before positions are added, e.g. OPT's.
        after: what stands after that, in order: a norm, a projection.
        scale: Gemma's sqrt(D).
        zero_padding: hidden states of padding are 0 (DeBERTa).
    """

    def __init__(
        self,
        words: torch.Tensor,
        context: dict[str, nn.Module],
        positions: nn.Module | None = None,
        before: nn.Module | None = None,
        after: Sequence[nn.Module] = (),
        scale: float | None = None,
        zero_padding: bool = False,
    ) -> None:
        super().__init__()
        self.words: torch.Tensor
        self.register_buffer("words", words)
        self.table: nn.Module | None = None  # what stands for the words while they are lowered quantised
        self.context_names = tuple(context)
        self.makers = nn.ModuleList(context.values())
        self.positions, self.before, self.after = positions, before, nn.ModuleList(after)
        self.zero_padding = zero_padding
        self.scale: torch.Tensor | None
        self.register_buffer("scale", None if scale is None else torch.tensor([scale]))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Both int64 [B,T] → hidden float32 [B,T,D], then the context's tensors in order."""
        real = attention_mask.float()
        if self.table is None:
            hidden = nn.functional.embedding(input_ids, self.words)
        else:
            hidden = self.table(input_ids)
        if self.scale is not None:
            hidden = hidden * self.scale
        if self.before is not None:
            hidden = self.before(hidden)
        if self.positions is not None:
            hidden = hidden + self.positions(attention_mask)
        for part in self.after:
            hidden = part(hidden)
        if self.zero_padding:
            hidden = hidden * real.unsqueeze(-1)
        return (hidden, *(maker(real) for maker in self.makers))


class Positions(nn.Module):
    """Learned positions that count every place, padding or not: float32 [T, E] of a table."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table: torch.Tensor
        self.register_buffer("table", table)

    def forward(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [B,T] → float32 [T,E]."""
        return self.table[: attention_mask.shape[1]]


class CountedPositions(nn.Module):
    """Learned positions that count real tokens only (OPT, RoBERTa): row offset + real tokens so far.

    Args:
        table: float32 [rows, E].
        offset: of the first real token's row, less 1.
    """

    def __init__(self, table: torch.Tensor, offset: int) -> None:
        super().__init__()
        self.table: torch.Tensor
        self.offset = offset
        self.register_buffer("table", table)

    def forward(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [B,T] → float32 [B,T,E]."""
        rows = torch.cumsum(attention_mask, 1) * attention_mask + self.offset
        return nn.functional.embedding(rows, self.table)


class AttentionMask(nn.Module):
    """The additive mask of one kind of attention: padding, causality, a sliding window, in any combination.

    Args:
        rows: KV, how many rows of the scores a batch row has.
        group: G, how many query heads share a key/value head.
        causal: a token sees none after it.
        window: a token sees none that lies `window` places or more from it; None for no limit.
        padding: padding is masked. A causal model with padding on the right needs no such mask.
    """

    def __init__(
        self, rows: int, group: int = 1, causal: bool = False, window: int | None = None, padding: bool = True
    ) -> None:
        super().__init__()
        self.rows, self.group, self.causal, self.window, self.padding = rows, group, causal, window, padding
        self.masked: torch.Tensor
        self.reach: torch.Tensor | None
        self.register_buffer("masked", torch.full((1, rows, 1), MASKED))
        self.register_buffer("reach", None if window is None else torch.tensor([float(window - 1)]))

    def forward(self, real: torch.Tensor) -> torch.Tensor:
        """real float32 [B,T] → [B·KV, 1, T], [1, G·T, T] or [B·KV, G·T, T]: 0 or MASKED (or its double)."""
        batch, tokens = real.shape
        mask: torch.Tensor | None = None
        if self.causal or self.window is not None:
            mask = self._places(tokens)
        if not self.padding and mask is not None:
            return mask
        # A product with a constant per head spreads the mask over the heads; expand would not be delegated.
        padding = self.masked - real.view(batch, 1, -1) * self.masked
        padding = padding.view(batch * self.rows, 1, -1)
        return padding if mask is None else mask + padding

    def _places(self, tokens: int) -> torch.Tensor:
        """[1, G·T, T]: what a query at i may see of a key at j by i − j alone."""
        places = torch.arange(tokens, dtype=torch.float32)
        ahead = places.view(1, -1) - places.view(-1, 1)  # j − i
        hidden = ahead.clamp(0.0, 1.0) if self.causal else torch.zeros_like(ahead)
        if self.reach is not None:
            hidden = hidden + (ahead.abs() - self.reach).clamp(0.0, 1.0)
        return (hidden.clamp(0.0, 1.0) * MASKED).repeat(self.group, 1).view(1, self.group * tokens, tokens)


class RotaryTable(nn.Module):
    """cos or sin of place · frequency, for every place (Su et al. 2021, arXiv 2104.09864).

    Args:
        angles: float32 [places, d/2 or less], radians.
        cosine: cos, not sin.
        scaling: a factor on the table (long-context variants).
        head_size: d; places of a head beyond twice the angles are not rotated.
    """

    def __init__(self, angles: torch.Tensor, cosine: bool, scaling: float, head_size: int) -> None:
        super().__init__()
        both = torch.cat([angles, angles], -1)
        table = (both.cos() if cosine else both.sin()) * scaling
        rest = head_size - table.shape[1]
        table = nn.functional.pad(table, (0, rest), value=1.0 if cosine else 0.0)
        self.table: torch.Tensor
        self.register_buffer("table", table.view(1, -1, 1, head_size))

    def forward(self, real: torch.Tensor) -> torch.Tensor:
        """real float32 [B,T] → float32 [1,T,1,d]."""
        return self.table[:, : real.shape[1]]


@dataclass(frozen=True)
class Rotary:
    """Rotary positions as a configuration asks for them: the two tables, and how many places turn."""

    cos: RotaryTable
    sin: RotaryTable
    size: int

    @classmethod
    def of(cls, config: Any, max_tokens: int, layer_type: str | None = None) -> Rotary:
        """From a Hugging Face configuration's rope_parameters; transformers itself computes the scaled kinds.

        Args:
            config: with rope_parameters.
            max_tokens: rows of the tables.
            layer_type: whose parameters, where kinds of layers differ.

        Raises:
            BundleError: frequencies that change with the length of the text.
        """
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        parameters = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kind, scaling = parameters.get("rope_type", "default"), 1.0
        longest = parameters.get("original_max_position_embeddings", config.max_position_embeddings)
        if kind in ("dynamic", "longrope") and max_tokens > longest:
            raise BundleError(
                f"rope_type {kind!r} changes beyond {longest} tokens; --max-tokens: at most that"
            )
        if kind == "default":
            size = int(head_size * parameters.get("partial_rotary_factor", 1.0))
            frequencies = parameters["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float32) / size)
        else:
            options = {"layer_type": layer_type} if layer_type else {}
            frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **options)
        angles = torch.arange(max_tokens, dtype=torch.float32)[:, None] * frequencies.float()[None, :]
        cos, sin = (RotaryTable(angles, cosine, float(scaling), head_size) for cosine in (True, False))
        return cls(cos, sin, 2 * angles.shape[1])
