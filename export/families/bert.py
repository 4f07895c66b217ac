"""BERT encoders (Devlin et al. 2019; model_type "bert"), written so that XNNPACK takes a block whole."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from device_runtime.errors import BundleError
from export.adapters import Adapter
from export.families import LayerNorm
from export.source import Weights

NAME = "bert"
# Checkpoints of BertFor… carry their encoder under "bert."; BertModel's own have no prefix.
PREFIXES = ("", "bert.")
# PEFT's path of a module is this plus its Hugging Face name.
PEFT_PREFIX = "base_model.model."
# Added to a score that must not count. exp(score - 1e9) is exactly 0 in float32, and a row without any real
# token stays finite (it has weight 0 and must not become NaN).
MASKED = -1.0e9


class Bert:
    """The frozen encoder as `embed` and `blocks` (see export.families.Family)."""

    def __init__(self, config: dict[str, Any], weights: Weights, adapter: Adapter) -> None:
        _refuse_unsupported(config)
        self.name = NAME
        self.hidden_size = int(config["hidden_size"])
        self.max_positions = int(config["max_position_embeddings"])
        self.embed: nn.Module = Embed(config, weights)
        self.blocks: list[nn.Module] = [
            Block(f"encoder.layer.{i}", config, weights, adapter) for i in range(config["num_hidden_layers"])
        ]


class Embed(nn.Module):
    """Token, position and segment embeddings, layer normalisation, and the additive attention mask."""

    def __init__(self, config: dict[str, Any], weights: Weights) -> None:
        super().__init__()
        heads = int(config["num_attention_heads"])
        self.words: torch.Tensor
        self.positions: torch.Tensor
        self.masked: torch.Tensor
        self.register_buffer("words", weights("embeddings.word_embeddings.weight"))
        # One text has one segment, so that segment's row is part of every position's.
        kinds = weights("embeddings.token_type_embeddings.weight")
        self.register_buffer("positions", weights("embeddings.position_embeddings.weight") + kinds[0])
        self.register_buffer("masked", torch.full((1, heads, 1), MASKED))
        self.norm = _norm("embeddings.LayerNorm", config, weights)
        self.heads = heads

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both int64 [B,T] → hidden float32 [B,T,D], mask float32 [B*heads,1,T]: 0 or MASKED."""
        batch, tokens = input_ids.shape
        x = nn.functional.embedding(input_ids, self.words) + self.positions[:tokens]
        real = attention_mask.float().view(batch, 1, -1)
        # A product with a constant per head spreads the mask over the heads; expand would not be delegated.
        mask = self.masked - real * self.masked
        return self.norm(x), mask.view(batch * self.heads, 1, -1)


class Block(nn.Module):
    """One transformer layer: self-attention and feed-forward, each with a residual and a norm after it."""

    def __init__(self, path: str, config: dict[str, Any], weights: Weights, adapter: Adapter) -> None:
        super().__init__()

        def linear(name: str) -> nn.Module:
            full = f"{path}.{name}"
            return adapter.linear(PEFT_PREFIX + full, weights(f"{full}.weight"), weights(f"{full}.bias"))

        self.heads = int(config["num_attention_heads"])
        self.width = int(config["hidden_size"])
        self.query = linear("attention.self.query")
        self.key = linear("attention.self.key")
        self.value = linear("attention.self.value")
        self.attention_output = linear("attention.output.dense")
        self.attention_norm = _norm(f"{path}.attention.output.LayerNorm", config, weights)
        self.intermediate = linear("intermediate.dense")
        self.output = linear("output.dense")
        self.output_norm = _norm(f"{path}.output.LayerNorm", config, weights)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.tensor([1.0 / math.sqrt(self.width // self.heads)]))

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, adapter: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """hidden float32 [B,T,D], mask float32 [B*heads,1,T] → hidden float32 [B,T,D]."""
        batch = hidden.shape[0]
        x = hidden.view(1, -1, self.width)
        x = self.attention_norm(x + self.attention_output(self._attend(x, mask, batch, adapter), adapter))
        inner = nn.functional.gelu(self.intermediate(x, adapter))
        out: torch.Tensor = self.output_norm(x + self.output(inner, adapter))
        return out.view(batch, -1, self.width)

    def _attend(
        self, x: torch.Tensor, mask: torch.Tensor, batch: int, adapter: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        # bmm on (batch*heads, T, d): a 4-D matmul would leave two expand_copy outside the delegate. XNNPACK
        # takes a view only if it infers one size (-1) and no other depends on T; so T can vary between calls.
        size = self.width // self.heads

        def split(y: torch.Tensor) -> torch.Tensor:
            heads: torch.Tensor = y.view(batch, -1, self.heads, size)
            return heads.permute(0, 2, 1, 3)

        query = split(self.query(x, adapter) * self.scale).contiguous().view(batch * self.heads, -1, size)
        key = split(self.key(x, adapter)).permute(0, 1, 3, 2).contiguous().view(batch * self.heads, size, -1)
        value = split(self.value(x, adapter)).contiguous().view(batch * self.heads, -1, size)
        weights = torch.softmax(torch.bmm(query, key) + mask, -1)
        mixed = torch.bmm(weights, value).view(batch, self.heads, -1, size).permute(0, 2, 1, 3)
        return mixed.contiguous().view(1, -1, self.width)


def _norm(path: str, config: dict[str, Any], weights: Weights) -> LayerNorm:
    return LayerNorm(weights(f"{path}.weight"), weights(f"{path}.bias"), float(config["layer_norm_eps"]))


def _refuse_unsupported(config: dict[str, Any]) -> None:
    if config.get("hidden_act", "gelu") != "gelu":
        raise BundleError(f"bert: hidden_act {config['hidden_act']!r} is not supported, only 'gelu'")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise BundleError(
            f"bert: position_embedding_type {config['position_embedding_type']!r} is not supported, "
            "only 'absolute'"
        )
    if config.get("is_decoder", False):
        raise BundleError("bert: is_decoder is not supported; export the encoder")
