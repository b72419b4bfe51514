"""The shape of a model: everything `config.json` in a model directory says."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from multistride.settings import Settings

MOST_LAYERS, MOST_WIDE, MOST_INNER = 1024, 2**16, 2**20
MOST_ENTRIES, MOST_GROUP = 2**24, 256
"""Limits of sizes, several times those of the largest models: a damaged configuration must not make
a model that no memory holds."""

Layout = Literal["sat", "lookahead"]
"""The layouts of slots that a model can be trained for and decoding writes groups in."""


class RotaryScaling(Settings):
    """Slower rotations for long texts, as in Llama 3.1.

    Source: Grattafiori et al. 2024, arXiv 2407.21783.
    """

    factor: float = Field(ge=1, description="how much slower the slow rotations become")
    low_frequency: float = Field(
        gt=0, description="turns in the original context up to which a rotation is slow"
    )
    high_frequency: float = Field(
        gt=0, description="turns in the original context from which on it is left alone"
    )
    original_positions: int = Field(
        ge=1, description="the context the model was first trained with"
    )


class AdapterConfig(Settings):
    """Adapters that act on mask slots alone: the model drafts, and its own text stays."""

    rank: int = Field(64, ge=1, le=MOST_WIDE, description="inner width of each low-rank addition")
    alpha: float = Field(64.0, gt=0, description="additions are multiplied by alpha / rank")
    layers: int = Field(
        4,
        ge=1,
        description="how many of the last decoder layers mask slots pass through: few are cheap",
    )


class WideConfig(Settings):
    """A linear path beside the pooled states that reads the words of a whole document.

    See `model/wide.py`.
    """

    words: int = Field(
        65536, ge=1, description="most words that are known: those that most documents have"
    )
    documents: int = Field(
        2, ge=1, description="training documents that a word must stand in to be known"
    )
    penalty: float = Field(
        0.03,
        gt=0,
        description="weight of half the squares of its weights, beside the sum of losses of all "
        "documents",
    )


class ClassifierConfig(Settings):
    """The classifier of a model, and the windows that long documents are cut into.

    `pooled` is a head on the encoder (no decoder); `labels` an encoder-decoder model that writes
    the name of the class.
    """

    kind: Literal["pooled", "labels"] = Field(
        "pooled", description="a head on the encoder, or names as targets"
    )
    classes: tuple[str, ...] = Field(
        (), description="names of the classes; training takes them from the data"
    )
    window: int = Field(128, ge=8, description="most tokens that are encoded together")
    overlap: int = Field(
        32, ge=0, description="tokens that a window shares with the one before it, at least"
    )
    first_tokens: int | None = Field(
        None, ge=8, description="read only so many of a document; left out: all"
    )
    pool: Literal["mean", "max", "mean-max"] = Field(
        "mean-max", description="pooled: what a window's vector is made of its tokens'"
    )
    windows: Literal["mean", "max", "attention"] = Field(
        "mean",
        description="how a document follows from its windows: pooled from their vectors, labels "
        "from scores",
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="pooled: on the document's vector")
    wide: WideConfig | None = Field(
        None,
        description="pooled: a linear path that reads the words of the whole document; left out: "
        "none",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClassifierConfig:
        if self.overlap >= self.window:
            raise ValueError(
                f"overlap is {self.overlap}; it must be smaller than window ({self.window})"
            )
        if self.kind == "labels" and self.windows == "attention":
            raise ValueError(
                "windows is attention, which needs vectors; labels have scores: choose mean or max"
            )
        if self.kind == "labels" and self.wide is not None:
            raise ValueError("wide is a path beside a pooled head; labels have none: leave it out")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names a class twice")
        return self


class TransformerConfig(Settings):
    """The sizes and choices of one Transformer. Frozen; unknown keys are errors."""

    vocabulary_size: int = Field(
        0,
        ge=0,
        le=MOST_ENTRIES,
        description="entries of the joint vocabulary; training takes it from the data",
    )
    hidden_size: int = Field(
        256, ge=8, le=MOST_WIDE, description="width of the residual stream (D)"
    )
    feedforward_size: int = Field(
        1024, ge=8, le=MOST_INNER, description="inner width of the feed-forward layers"
    )
    heads: int = Field(
        4, ge=1, le=MOST_WIDE, description="attention heads (H); divides hidden_size"
    )
    encoder_layers: int = Field(
        3, ge=0, le=MOST_LAYERS, description="encoder depth; 0 makes a decoder-only (causal) model"
    )
    decoder_layers: int = Field(
        3, ge=0, le=MOST_LAYERS, description="decoder depth; 0 only with a pooled classifier"
    )
    norm: Literal["pre", "post", "sandwich", "output"] = Field(
        "pre",
        description="normalisation before each sublayer, after its sum, before it and of its "
        "output (sandwich: Gemma), or of its output only (OLMo 2)",
    )
    parallel_sublayers: bool = Field(
        False,
        description="attention and feed-forward layer read the same states side by side (GPT-NeoX)",
    )
    activation: Literal["relu", "gelu", "gelu-tanh", "silu"] = Field(
        "relu", description="of the feed-forward layers; gelu-tanh is the approximation by tanh"
    )
    positions: Literal["sinusoidal", "learned", "rotary", "relative"] = Field(
        "sinusoidal",
        description="vectors added to the embeddings, rotations of queries and keys, or a learned "
        "number added to attention for every distance (T5)",
    )
    max_positions: int = Field(
        256,
        ge=8,
        le=1 << 24,
        description="longest source and longest target, in tokens with EOS",
    )
    tie_embeddings: bool = Field(
        True, description="source, target and output embedding are one matrix"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="on embeddings and sublayer outputs")
    attention_dropout: float = Field(
        0.0, ge=0, lt=1, description="on attention weights (slower on CPUs if not 0)"
    )
    max_group_size: int = Field(
        8, ge=1, le=MOST_GROUP, description="largest K this model has reach embeddings for"
    )
    markov_rank: int = Field(
        0, ge=0, le=MOST_WIDE, description="rank of the Markov head; 0 for none"
    )
    group_beam: int = Field(
        1,
        ge=1,
        le=8,
        description="groups kept by default while the Markov head picks the tokens of one "
        "(`--group-beam`); of no effect without the head",
    )
    group_sizes: tuple[int, ...] = Field(
        (1,), description="the K values it was trained for, K=1 first"
    )
    lookahead: bool = Field(
        False, description="it was trained to draft: with masks behind known tokens"
    )
    pad_token: int = Field(0, ge=0)
    start_token: int = Field(
        1, ge=0, description="what slots before the beginning of the sentence read"
    )
    end_token: int = Field(2, ge=0, description="EOS")
    mask_token: int = Field(3, ge=0, description="what lookahead slots read")
    norm_kind: Literal["layer", "rms"] = Field(
        "layer", description="LayerNorm, or RMSNorm (no mean, no bias)"
    )
    norm_epsilon: float = Field(
        1e-5, gt=0, description="added to the variance in every normalisation"
    )
    embedding_norm: bool = Field(
        False, description="normalise embeddings, positions included (BART)"
    )
    scale_embeddings: bool = Field(
        True, description="multiply token embeddings by the root of hidden_size"
    )
    separate_positions: bool = Field(
        False, description="the encoder has a learned table of positions of its own"
    )
    rotary_base: float = Field(10000.0, gt=1, description="base of the rotary frequencies (theta)")
    rotary_scaling: RotaryScaling | None = Field(
        None, description="slower rotations for long texts"
    )
    rotary_frequencies: tuple[float, ...] | None = Field(
        None,
        description="angles per position of the pairs of a head, for other scalings (linear, YaRN, "
        "LongRoPE, a part of each head); left out: those of rotary_base and rotary_scaling",
    )
    rotary_factor: float = Field(
        1.0, gt=0, description="rotated queries and keys are multiplied by this (YaRN, LongRoPE)"
    )
    attention_window: int | None = Field(
        None,
        ge=1,
        description="positions that a decoder slot sees back, its own included; left out: all",
    )
    window_layers: tuple[int, ...] | None = Field(
        None, description="decoder layers with the sliding window; left out: all"
    )
    window_rotary_base: float | None = Field(
        None,
        gt=1,
        description="rotary base of the layers with a sliding window, unscaled (Gemma 3); "
        "left out: they rotate as the others",
    )
    relative_buckets: int = Field(
        32, ge=4, le=MOST_WIDE, description="distances that relative positions tell apart"
    )
    relative_furthest: int = Field(
        128,
        ge=4,
        le=MOST_ENTRIES,
        description="distance from which on relative positions are all alike",
    )
    head_size: int | None = Field(
        None, ge=1, le=MOST_WIDE, description="width of a head (E); left out: hidden_size / heads"
    )
    key_value_heads: int | None = Field(
        None, ge=1, le=MOST_WIDE, description="heads of keys and values; left out: heads"
    )
    query_key_norm: bool = Field(False, description="RMSNorm of every query and key head (Qwen3)")
    query_key_norm_over: Literal["head", "all"] = Field(
        "head", description="what query_key_norm normalises: each head, or all together (OLMo 2)"
    )
    attention_cap: float | None = Field(
        None, gt=0, description="soft cap of attention logits: cap * tanh(logit / cap) (Gemma 2)"
    )
    output_cap: float | None = Field(
        None, gt=0, description="soft cap of the logits over the vocabulary (Gemma 2)"
    )
    attention_bias: Literal["all", "input", "none"] = Field(
        "all",
        description="biases of attention: of all four matrices, of queries, keys and values "
        "only, or none",
    )
    feedforward_bias: bool = Field(True, description="biases of the feed-forward layers")
    gated_feedforward: bool = Field(
        False, description="multiply by a second widening (with silu: SwiGLU)"
    )
    output_bias: bool = Field(
        False, description="a bias for every entry of the vocabulary (Marian)"
    )
    start_symbol: bool = Field(
        True,
        description="texts begin with the start symbol; false: with their own first token, which "
        "is given",
    )
    first_token: int | None = Field(
        None,
        ge=0,
        description="what every target begins with, such as the code of its language (NLLB); "
        "left out: nothing",
    )
    never_written: tuple[int, ...] | None = Field(
        None,
        description="tokens that are never picked; left out: the padding, start and mask symbols",
    )
    further_ends: tuple[int, ...] = Field(
        (), description="tokens that end a text as EOS does (Llama 3, Qwen)"
    )
    adapter: AdapterConfig | None = Field(
        None, description="adapters that write drafts; left out: none"
    )
    classifier: ClassifierConfig | None = Field(
        None, description="what makes a classifier of it; left out: none"
    )

    @model_validator(mode="after")
    def _consistent(self) -> TransformerConfig:
        if self.hidden_size % 2 or (self.head_size is None and self.hidden_size % self.heads):
            raise ValueError(
                f"hidden_size is {self.hidden_size}; it must be even and a multiple of heads "
                f"({self.heads})"
            )
        if self.heads % self.key_value_count:
            raise ValueError(
                f"key_value_heads is {self.key_value_heads}; it must divide heads ({self.heads})"
            )
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(
                f"a head is {self.head_width} wide; rotary positions need an even width"
            )
        self._check_attention()
        if self.first_token is not None and not (
            self.encoder_layers and self.first_token < max(self.vocabulary_size, 1)
        ):
            raise ValueError(
                f"first_token is {self.first_token}; it is a token of the vocabulary, and targets "
                "of an encoder-decoder begin with it"
            )
        if self.separate_positions and not (self.positions == "learned" and self.encoder_layers):
            raise ValueError(
                "separate_positions is true; only an encoder-decoder with learned positions has any"
            )
        if not self.start_symbol and self.encoder_layers:
            raise ValueError(
                "start_symbol is false; only a causal model (encoder_layers 0) can do without"
            )
        if self.adapter is not None and (
            self.encoder_layers or self.adapter.layers > self.decoder_layers
        ):
            raise ValueError(
                f"adapter.layers is {self.adapter.layers}; adapters are for causal models "
                "(encoder_layers 0), in at "
                f"most all of their decoder_layers ({self.decoder_layers})"
            )
        self._check_classifier()
        sizes, largest = list(self.group_sizes), self.max_group_size
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] > largest:
            raise ValueError(
                f"group_sizes is {sizes}; each must lie in 1 ... {largest}, in rising order"
            )
        return self

    def _check_attention(self) -> None:
        """Raise `ValueError` for choices of attention that do not go together."""
        if self.parallel_sublayers and (self.norm != "pre" or self.encoder_layers):
            raise ValueError(
                "parallel_sublayers is true; only a causal model (encoder_layers 0) with norm pre "
                "can have its sublayers side by side"
            )
        frequencies = self.rotary_frequencies
        if frequencies is not None and len(frequencies) != self.head_width // 2:
            raise ValueError(
                f"rotary_frequencies has {len(frequencies)} entries; a head of {self.head_width} "
                f"has {self.head_width // 2} pairs"
            )
        layers = self.window_layers
        if layers is not None and (
            self.attention_window is None or not all(0 <= n < self.decoder_layers for n in layers)
        ):
            raise ValueError(
                f"window_layers is {list(layers)}; they are indices of the {self.decoder_layers} "
                "decoder layers, and attention_window says how far they see"
            )
        if self.positions == "relative" and self.attention_window is not None:
            raise ValueError(
                f"attention_window is {self.attention_window}; relative positions see all slots"
            )
        if self.positions == "relative" and self.relative_furthest < self.relative_buckets:
            raise ValueError(
                f"relative_furthest is {self.relative_furthest}; it must be at least "
                f"relative_buckets ({self.relative_buckets})"
            )
        if self.window_rotary_base is not None and (
            self.attention_window is None or self.positions != "rotary"
        ):
            raise ValueError(
                "window_rotary_base is given; it needs attention_window and rotary positions"
            )

    def _check_classifier(self) -> None:
        pooled = self.classifier is not None and self.classifier.kind == "pooled"
        if pooled != (self.decoder_layers == 0):
            needed = (
                "a pooled classifier has 0: leave it out"
                if pooled
                else "it must be 1 or more (leave it out beside `classifier: {kind: pooled}`)"
            )
            raise ValueError(f"decoder_layers is {self.decoder_layers}; {needed}")
        if self.classifier is None:
            return
        if not self.encoder_layers or not self.tie_embeddings:
            raise ValueError(
                "a classifier needs encoder_layers of 1 or more and tie_embeddings true"
            )
        if self.classifier.window >= self.max_positions:
            raise ValueError(
                f"classifier.window is {self.classifier.window}; it must be smaller than "
                "max_positions "
                f"({self.max_positions})"
            )

    @property
    def head_width(self) -> int:
        """The width of one attention head (E)."""
        return self.head_size or self.hidden_size // self.heads

    @property
    def key_value_count(self) -> int:
        """The number of heads of keys and values; each serves `heads` divided by it queries."""
        return self.key_value_heads or self.heads

    @property
    def by_distance(self) -> bool:
        """True if attention depends on how far apart two slots are, beyond their rotation.

        Then masks are made of positions as well as groups, and the cache keeps positions.
        """
        return self.attention_window is not None or self.positions == "relative"

    def slides(self, layer: int) -> bool:
        """Return true if this decoder layer has the sliding window."""
        return self.attention_window is not None and (
            self.window_layers is None or layer in self.window_layers
        )

    @property
    def summary(self) -> str:
        """Layers, width, vocabulary and group sizes in one line."""
        sides = {"encoder": self.encoder_layers, "decoder": self.decoder_layers}
        layers = " + ".join(f"{count} {side}" for side, count in sides.items() if count)
        sizes = ",".join(map(str, self.group_sizes))
        shape = f"{layers} layers of width {self.hidden_size}"
        return f"{shape}, {self.vocabulary_size:,} tokens, K={sizes}"

    @property
    def unpicked(self) -> tuple[int, ...]:
        """The tokens that are never picked. Tokens that end a text are not among them."""
        if self.never_written is not None:
            return self.never_written
        return tuple({self.pad_token, self.start_token, self.mask_token} - set(self.ends))

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text, EOS first."""
        return (self.end_token, *self.further_ends)

    @property
    def forced_tokens(self) -> int:
        """Return how many tokens every target is forced to begin with (0 or 1); each is a group
        of its own.
        """
        return 0 if self.first_token is None else 1

    @property
    def extras(self) -> list[str]:
        """The choices that only converted models have, as text; engines may not support them."""
        # A classifier that scores labels is an ordinary encoder-decoder model for every engine.
        scores_labels = self.classifier is not None and self.classifier.kind == "labels"
        others = [
            f"{name} {getattr(self, name)}"
            for name in _FOR_CONVERTED
            if getattr(self, name) != TransformerConfig.model_fields[name].default
            and not (name == "classifier" and scores_labels)
        ]
        if self.activation not in ("relu", "gelu"):
            others.append(f"activation {self.activation}")
        if self.positions in ("rotary", "relative"):
            others.append(f"positions {self.positions}")
        if self.norm in ("sandwich", "output"):
            others.append(f"norm {self.norm}")
        return others

    def stored(self) -> dict[str, Any]:
        """Return the contents of `config.json`.

        They are all choices, less later ones and those made for converted models where they are
        the default. So the file of a model that has none of them is the one that earlier versions
        wrote, and can read.
        """
        left_out = {
            name
            for name in (*_FOR_CONVERTED, "group_beam")
            if getattr(self, name) == TransformerConfig.model_fields[name].default
        }
        stored = self.model_dump(mode="json", exclude=left_out)
        if self.classifier is not None and self.classifier.wide is None:
            del stored["classifier"]["wide"]  # as earlier versions wrote it
        return stored


_FOR_CONVERTED = (
    "norm_kind",
    "norm_epsilon",
    "parallel_sublayers",
    "embedding_norm",
    "scale_embeddings",
    "separate_positions",
    "rotary_base",
    "rotary_scaling",
    "rotary_frequencies",
    "rotary_factor",
    "attention_window",
    "window_layers",
    "window_rotary_base",
    "relative_buckets",
    "relative_furthest",
    "head_size",
    "key_value_heads",
    "query_key_norm",
    "query_key_norm_over",
    "attention_cap",
    "output_cap",
    "attention_bias",
    "feedforward_bias",
    "gated_feedforward",
    "output_bias",
    "start_symbol",
    "first_token",
    "never_written",
    "further_ends",
    "adapter",
    "classifier",
)
"""Fields that models of this package's own recipes leave at their defaults.

Where they are, `config.json` omits them; where they are not, engines may not support them."""
