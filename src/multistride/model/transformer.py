"""The Transformer: encoder and decoder over slots. It does not know how it is decoded.

Shapes: B sentences, S source tokens, N slots, M slots and drafts, or cached and new slots, D hidden
size, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from multistride.groups import (
    PADDING_GROUP,
    Slots,
    draft_visibility,
    like_lengths,
    visibility,
)
from multistride.model.adapters import DraftGate, adapt
from multistride.model.attention import CrossAttention, SelfAttention
from multistride.model.cache import DecoderCache, KeyValue, LayerCache, PassedOn
from multistride.model.classifier import PooledHead
from multistride.model.config import TransformerConfig
from multistride.model.distance import RelativeBias, RelativePositions, distances, sights
from multistride.model.layers import (
    FeedForward,
    PositionEmbedding,
    ReachEmbedding,
    Residual,
    RotaryPositions,
    Rotation,
    Sight,
    StartVectors,
    normalisation,
)
from multistride.model.markov import MarkovHead

PART_OVERHEAD = 96
"""What decoding the rows of a batch in one more part costs, in slots; measured on a CPU, and of no
consequence up to twice as much or half."""


class View(NamedTuple):
    """The slots visible in one layer, and the turn of their queries and keys."""

    mask: Sight
    rotation: Rotation | None


class EncoderLayer(nn.Module):
    """Self-attention over the source, then a feed-forward layer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention, self.around_attention = SelfAttention(config), Residual(config)
        self.feedforward, self.around_feedforward = FeedForward(config), Residual(config)

    def forward(
        self,
        hidden: Float[Tensor, "B S D"],
        mask: Sight,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Return the layer's output [B, S, D]."""
        hidden = self.around_attention(
            hidden, lambda normed: self.attention(normed, mask, None, rotation)
        )
        output: Tensor = self.around_feedforward(hidden, self.feedforward)
        return output


class DecoderLayer(nn.Module):
    """Self-attention over the slots, attention over a source if there is one, then feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention, self.around_attention = SelfAttention(config), Residual(config)
        if config.encoder_layers:
            self.cross, self.around_cross = CrossAttention(config), Residual(config)
        self.parallel = config.parallel_sublayers
        self.feedforward, self.around_feedforward = FeedForward(config), Residual(config)

    def forward(
        self,
        hidden: Float[Tensor, "B N D"],
        mask: Sight,
        source: KeyValue | None,
        source_mask: Bool[Tensor, "B 1 1 S"] | None,
        cache: LayerCache | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return the layer's output [B, N, D].

        `source` is the result of `CrossAttention.project`, None for a causal model.
        """
        if self.parallel:
            attended = self.around_attention.branch(
                hidden, lambda normed: self.attention(normed, mask, cache, rotation)
            )
            return hidden + attended + self.around_feedforward.branch(hidden, self.feedforward)
        hidden = self.around_attention(
            hidden, lambda normed: self.attention(normed, mask, cache, rotation)
        )
        if source is not None:
            hidden = self.around_cross(
                hidden, lambda normed: self.cross(normed, source, source_mask)
            )
        output: Tensor = self.around_feedforward(hidden, self.feedforward)
        return output


class Transformer(nn.Module):
    """An encoder-decoder Transformer, or a decoder-only one if `encoder_layers` is 0.

    One class, one set of weights and one code path serve every group size; 1 is autoregressive.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); slots in place of shifted targets as in
    `multistride.groups`.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.vocabulary_size > 0, "a model needs the size of its vocabulary"
        self.config = config
        self.target_embedding = nn.Embedding(config.vocabulary_size, config.hidden_size)
        if config.encoder_layers and not config.tie_embeddings:
            self.source_embedding = nn.Embedding(config.vocabulary_size, config.hidden_size)
        if not config.tie_embeddings:
            self.output = nn.Linear(config.hidden_size, config.vocabulary_size, bias=False)
        self.output_bias = (
            nn.Parameter(torch.zeros(config.vocabulary_size)) if config.output_bias else None
        )
        self.markov = MarkovHead(config) if config.markov_rank else None
        self.classifier = PooledHead(config) if config.decoder_layers == 0 else None
        self.position = _POSITIONS[config.positions](config)
        self.source_position = _source_position(config)
        self.scale = math.sqrt(config.hidden_size) if config.scale_embeddings else 1.0
        self.reach = ReachEmbedding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        final = config.norm != "post"
        self.encoder_norm = (
            normalisation(config) if config.encoder_layers and final else nn.Identity()
        )
        self.decoder_norm = (
            normalisation(config) if final and config.decoder_layers else nn.Identity()
        )
        first = config.embedding_norm
        self.source_embedding_norm = (
            normalisation(config) if config.encoder_layers and first else nn.Identity()
        )
        self.target_embedding_norm = normalisation(config) if first else nn.Identity()
        self._gate = DraftGate()
        if config.adapter is not None:
            for layer in self.decoder[-config.adapter.layers :]:
                adapt(layer, config.adapter, self._gate)
        self.apply(_initialise)
        if self.classifier is not None:
            nn.init.zeros_(
                self.classifier.output.weight
            )  # largest entries of vectors are large: begin undecided

    def forward(
        self,
        source: Int[Tensor, "B S"] | None,
        source_lengths: Int[Tensor, "B"] | None,
        slots: Slots,
        drafts: Slots | None = None,
        entering: Float[Tensor, "B N D"] | None = None,
    ) -> Float[Tensor, "B M D"]:
        """Return the final hidden states of all slots in one pass, for training and scoring.

        `project` maps them to logits. `source` is None for a causal model. The states of `drafts`
        (`groups.draft_masks`) follow those of the slots. `entering` is the result of
        `before_adapters` for the slots, if it is known already.

        Group sizes differ from row to row, and so do the numbers of slots: rows with about as many
        are decoded together, so that little is computed for padding. The states of padding slots
        say nothing.
        """
        if drafts is not None or self.config.adapter is not None:
            mask = visibility(slots.group, slots.group)[:, None]
            return self._with_drafts(slots, drafts, mask, entering)
        # Rows are cut behind their last slot: padding may also stand between slots.
        ends = torch.arange(1, slots.group.shape[1] + 1, device=slots.group.device)
        counts, order = (
            torch.where(slots.group < PADDING_GROUP, ends, 0).amax(dim=1).sort(stable=True)
        )
        sizes = like_lengths(counts.tolist(), PART_OVERHEAD)
        slots = Slots(*(field[order] for field in slots))
        keys_values: list[KeyValue] = []
        seen = None
        if source is not None and source_lengths is not None:
            encoded, seen = self.encode(source[order], source_lengths[order])
            keys_values = self.project_source(encoded)
        assert bool(keys_values) == bool(self.encoder), "a source is what an encoder needs"
        parts, end = [], 0
        for size in sizes:
            rows, end = slice(end, end + size), end + size
            parts.append(self._part(slots, rows, int(counts[end - 1]), keys_values, seen))
        return torch.cat(parts)[order.argsort()]

    def _part(
        self,
        slots: Slots,
        rows: slice,
        width: int,
        source: list[KeyValue],
        source_mask: Bool[Tensor, "B 1 1 S"] | None,
    ) -> Float[Tensor, "R N D"]:
        """Decode some rows of a batch, none of which has more than `width` slots; zeros follow."""
        part = Slots(*(field[rows, :width] for field in slots))
        mask = visibility(part.group, part.group)[:, None]
        seen = None if source_mask is None else source_mask[rows]
        hidden = self.decode(
            part, mask, [(key[rows], value[rows]) for key, value in source], seen, None
        )
        return functional.pad(hidden, (0, 0, 0, slots.group.shape[1] - width))

    def before_adapters(self, slots: Slots) -> Float[Tensor, "B N D"]:
        """Return the states of clean slots before the first layer with adapters."""
        mask = visibility(slots.group, slots.group)[:, None]
        return self._before_adapters(slots, self._views(slots, mask, None), None)

    def _with_drafts(
        self,
        slots: Slots,
        drafts: Slots | None,
        mask: Bool[Tensor, "B 1 N N"],
        entering: Float[Tensor, "B N D"] | None,
    ) -> Float[Tensor, "B M D"]:
        if drafts is None:
            return self.decode(slots, mask, [], None, None)
        passed_on: list[LayerCache] = [PassedOn() for _ in range(self.cache_count)]
        seen = draft_visibility(slots.group, drafts.group)[:, None]
        if self.config.adapter is None:
            hidden = self.decode(slots, mask, [], None, passed_on)
            return torch.cat([hidden, self.decode(drafts, seen, [], None, passed_on)], dim=1)
        with torch.no_grad():  # nothing that is trained acts on these slots
            if entering is None:
                entering = self.before_adapters(slots)
            views = self._views(slots, mask, passed_on)
            hidden = self._with_adapters(entering, views, passed_on, 0)
        anchors = drafts.group.clamp(
            max=slots.group.shape[1] - 1
        )  # a text laid out for drafts is clean all through
        first = entering.gather(
            1, anchors[:, :, None].expand(-1, -1, entering.shape[2])
        ) + self.reach(drafts.reach)
        views = self._views(drafts, seen, passed_on)
        drafted = self._with_adapters(first, views, passed_on, drafts.token.shape[1])
        return torch.cat([hidden, drafted], dim=1)

    def encode(
        self, source: Int[Tensor, "B S"], lengths: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B 1 1 S"] | None]:
        """Return the encoded source [B, S, D] and which of its tokens are real (None: all)."""
        assert self.encoder, "a causal model has no source"
        positions = torch.arange(source.shape[1], device=source.device)[None]
        real = positions < lengths[:, None]
        mask = None if source.device.type == "cpu" and bool(real.all()) else real[:, None, None, :]
        table = self.target_embedding if self.config.tie_embeddings else self.source_embedding
        hidden, view = table(source) * self.scale, View(mask, None)
        if isinstance(self.position, RotaryPositions):
            view = View(mask, self.position(positions))
        elif isinstance(self.source_position, RelativeBias):
            view = View(self.source_position(mask, distances(positions, None)), None)
        else:
            hidden = hidden + (self.source_position or self.position)(positions)
        hidden = self.dropout(self.source_embedding_norm(hidden))
        for layer in self.encoder:
            hidden = layer(hidden, *view)
        return self.encoder_norm(hidden), mask

    def start(
        self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None
    ) -> DecoderCache:
        """Return an empty cache with the cross-attention keys and values of the encoded source."""
        if source is None or lengths is None:
            assert not self.encoder, "an encoder-decoder model needs a source"
            return DecoderCache(self.cache_count, [], None)
        encoded, mask = self.encode(source, lengths)
        return DecoderCache(self.cache_count, self.project_source(encoded), mask)

    def project_source(self, encoded: Float[Tensor, "B S D"]) -> list[KeyValue]:
        """Return the keys and values of the encoded source for every decoder layer."""
        return [
            layer.cross.project(encoded)
            for layer in self.decoder
            if isinstance(layer, DecoderLayer)
        ]

    def decode(
        self,
        slots: Slots,
        mask: Bool[Tensor, "B 1 N M"] | None,
        source: list[KeyValue],
        source_mask: Bool[Tensor, "B 1 1 S"] | None,
        caches: list[LayerCache] | None,
    ) -> Float[Tensor, "B N D"]:
        """Run the decoder over N slots; `mask` says which of M cached and new slots each sees.

        `caches` has one cache per layer, and one more where `TransformerConfig.by_distance` is
        true: of positions.
        """
        views = self._views(slots, mask, caches)
        if self.config.adapter is not None:
            return self._decode_adapted(slots, views, caches)
        hidden = self._enter(slots)
        for index, layer in enumerate(self.decoder):
            keys_values = source[index] if source else None
            cache = caches[index] if caches else None
            hidden = layer(
                hidden, views[index].mask, keys_values, source_mask, cache, views[index].rotation
            )
        output: Tensor = self.decoder_norm(hidden)
        return output

    @property
    def cache_count(self) -> int:
        """The number of layer caches that `decode` takes."""
        return self.config.decoder_layers + int(self.config.by_distance)

    def _views(
        self, slots: Slots, mask: Bool[Tensor, "B 1 #N M"] | None, caches: list[LayerCache] | None
    ) -> list[View]:
        """Return what slots see in each decoder layer, and their rotation there."""
        config, position = self.config, self.position
        rotation = position(slots.position) if isinstance(position, RotaryPositions) else None
        if not config.by_distance:
            return [View(mask, rotation)] * config.decoder_layers
        distance = distances(slots.position, caches[-1] if caches else None)
        bias = position.bias if isinstance(position, RelativePositions) else None
        rotations = [rotation] * config.decoder_layers
        if config.window_rotary_base is not None and isinstance(position, RotaryPositions):
            turned = position.within_window(slots.position)
            rotations = [
                turned if config.slides(layer) else rotation
                for layer in range(config.decoder_layers)
            ]
        masks = sights(config, mask, distance, bias)
        return [View(*view) for view in zip(masks, rotations, strict=True)]

    def _decode_adapted(
        self, slots: Slots, views: list[View], caches: list[LayerCache] | None
    ) -> Float[Tensor, "B N D"]:
        """Run the decoder; mask slots (the last columns) enter at the first layer with adapters.

        They enter as the state of the clean slot they draft from plus a reach vector. The layers
        below compute clean slots only, so masks cost nothing there. Every clean slot is drafted
        from.
        """
        columns = int((slots.reach[0] > 1).sum())
        count = slots.token.shape[1] - columns
        clean = Slots(*(field[:, :count] for field in slots))
        hidden = self._before_adapters(
            clean, [_first(view, count, columns) for view in views] if columns else views, caches
        )
        if columns:
            before = hidden.repeat_interleave(columns // hidden.shape[1], dim=1)
            masks = before + self.reach(slots.reach[:, -columns:])
            hidden = torch.cat([hidden, masks], dim=1)
        return self._with_adapters(hidden, views, caches, columns)

    def _before_adapters(
        self, slots: Slots, views: list[View], caches: list[LayerCache] | None
    ) -> Float[Tensor, "B N D"]:
        assert self.config.adapter is not None
        hidden = self._enter(slots)
        for index in range(len(self.decoder) - self.config.adapter.layers):
            cache, (mask, rotation) = caches[index] if caches else None, views[index]
            hidden = self.decoder[index](hidden, mask, None, None, cache, rotation)
        return hidden

    def _with_adapters(
        self,
        hidden: Float[Tensor, "B N D"],
        views: list[View],
        caches: list[LayerCache] | None,
        columns: int,
    ) -> Float[Tensor, "B N D"]:
        """Run the layers with adapters, which act on the last `columns` slots."""
        assert self.config.adapter is not None
        self._gate.columns = columns
        for index in range(len(self.decoder) - self.config.adapter.layers, len(self.decoder)):
            cache, (mask, rotation) = caches[index] if caches else None, views[index]
            hidden = self.decoder[index](hidden, mask, None, None, cache, rotation)
        output: Tensor = self.decoder_norm(hidden)
        return output

    def _enter(self, slots: Slots) -> Float[Tensor, "B N D"]:
        """Return the input of the first layer."""
        hidden = self.target_embedding(slots.token) * self.scale
        if isinstance(self.position, StartVectors):
            hidden = hidden + self.position.starts(slots.position, slots.reach)
        else:
            hidden = hidden + self.position(slots.position)
        output: Tensor = self.dropout(self.target_embedding_norm(hidden + self.reach(slots.reach)))
        return output

    def project(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape V"]:
        """Return logits over the vocabulary."""
        if self.config.tie_embeddings:
            logits = functional.linear(hidden, self.target_embedding.weight, self.output_bias)
        else:
            logits = self.output(hidden)
            if self.output_bias is not None:
                logits = logits + self.output_bias
        cap = self.config.output_cap
        return logits if cap is None else cap * (logits / cap).tanh()


_POSITIONS: dict[str, type[PositionEmbedding | RotaryPositions | RelativePositions]] = {
    "sinusoidal": PositionEmbedding,
    "learned": PositionEmbedding,
    "rotary": RotaryPositions,
    "relative": RelativePositions,
}


def _source_position(config: TransformerConfig) -> PositionEmbedding | RelativeBias | None:
    """Return the positions that the encoder has for itself, if it has any."""
    if config.positions == "relative" and config.encoder_layers:
        return RelativeBias(config, both_ways=True)
    return PositionEmbedding(config) if config.separate_positions else None


def _first(view: View, count: int, columns: int) -> View:
    """Return the view of the first `count` slots, which see none of the last `columns`."""
    mask, rotation = view
    if mask is not None:
        mask = mask[:, :, :-columns, :-columns]
    if rotation is not None:
        rotation = rotation[0][:, :, :count], rotation[1][:, :, :count]
    return View(mask, rotation)


def _initialise(module: nn.Module) -> None:
    """Initialise matrices (Xavier-uniform), biases (zero) and embeddings (expected norm 1).

    Reach vectors stay zero.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding) and module.padding_idx is None:
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
