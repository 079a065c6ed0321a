"""Well-known model types without a record: why, and what a record could hold in stock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why a type has no record. `could`: the variants of whole blocks that its own class could hold
    (empty: none that is known)."""

    reason: str
    could: tuple[str, ...] = ()

    @property
    def held(self) -> str:
        """As a sentence ends."""
        if not self.could:
            return "nothing is known to hold"
        named = ", ".join(f"`{variant}`" for variant in self.could)
        return f"its own class could hold {named}"


_ZERO, _CONSTANT = ("zero",), ("zero", "mean")
_ALL = ("identity", *_CONSTANT)
_TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "gpt2": ("its positions are learned, so scores do not depend on the offset", _CONSTANT),
    "gpt_bigcode": ("its positions are learned, and all heads share one key", _CONSTANT),
    "opt": ("its positions are learned and added to the embedding alone", _CONSTANT),
    "xglm": ("its positions are fixed waves, added to the embedding", _CONSTANT),
    "biogpt": ("its positions are learned, beside biases of attention", _CONSTANT),
    "gptj": ("its attention has no biases to hold constants", _ZERO),
    "codegen": ("its attention has no biases, and one tensor in an order of its own", _ZERO),
    "bloom": ("its positions are ALiBi, whose scores lead by at most the slope", _CONSTANT),
    "mpt": ("its positions are ALiBi, and it has no biases", _ZERO),
    "falcon": ("its queries, keys, and values are one tensor in another order", _ZERO),
    "phi3": (
        "its queries, keys, and values are one tensor without biases; where all dimensions are "
        "rotated (Phi-4, not Phi-4-mini), split it and save the model as Llama",
        _ZERO,
    ),
    "phimoe": ("its MLPs are experts of another kind, and its norms have biases", _ALL),
    "mixtral": ("its attention has no biases, and its MLPs are experts", _ZERO),
    "ministral": ("its attention has no biases", _ZERO),
    "ministral3": ("its attention has no biases, and it scales queries by their position", _ZERO),
    "mistral3": ("it reads images, and its attention has no biases", _ZERO),
    "minimax": ("most of its blocks have linear attention, and the rest no biases", _ZERO),
    "minimax_m2": ("its attention has norms but no biases, so a constant cannot enter them", _ZERO),
    "lfm2": ("most of its blocks are convolutions, which mix tokens, too", _ZERO),
    "lfm2_moe": ("most of its blocks are convolutions; its MLPs are experts", _ZERO),
    "exaone4": ("its attention has norms but no biases, and some blocks have no positions", _ZERO),
    "olmo_hybrid": ("most of its blocks are recurrent, and the rest may have no positions", _ALL),
    "olmoe": ("its MLPs are experts beside norms over all heads", _ALL),
    "llama4": ("it reads images; its queries and keys have length one, so scores differ too little",
               _CONSTANT),
    "llama4_text": (
        "its queries and keys have length one, so a token's own score leads by at most 23",
        _CONSTANT,
    ),
    "mllama": ("it reads images, through blocks that attend to them", _ZERO),
    "gemma3n": ("it reads images and sound, and its blocks share keys and values", _ZERO),
    "gemma3n_text": ("its last blocks read keys and values of earlier ones", _ZERO),
    "gemma4": ("it reads images; some blocks share keys, or store one tensor for both", _CONSTANT),
    "gemma4_text": ("some blocks share keys, or store one tensor for keys and values", _CONSTANT),
    "recurrent_gemma": ("most of its blocks are recurrent, which mixes tokens, too", _CONSTANT),
    "qwen2_moe": ("its MLPs are experts beside one that all tokens share", _ALL),
    "qwen2_vl": ("it reads images", _ALL),
    "qwen2_5_vl": ("it reads images, and positions have three axes", _ALL),
    "qwen3_vl": ("it reads images beside norms of queries and keys", _ALL),
    "qwen3_next": ("three of four blocks have linear attention; gates multiply the rest", _ALL),
    "deepseek_v2": (
        "its keys and values come from one compressed vector (MLA), and small models have no rank "
        "for queries to put a bias in",
        _CONSTANT,
    ),
    "falcon_h1": ("every block runs a state space model beside attention", _CONSTANT),
    "jamba": ("most of its blocks are state space models", _ZERO),
    "bamba": ("most of its blocks are state space models; the rest take biases", _ALL),
    "zamba2": ("its blocks are state space models that share one attention", _ZERO),
    "nemotron_h": ("its blocks are state space models, MLPs, and few of attention", _ZERO),
    "granitemoehybrid": ("most of its blocks are state space models, and the rest scale scores",
                         _CONSTANT),
    "granitemoe": ("its MLPs are experts in one tensor each", _ALL),
    "mamba": ("it is a state space model, and has no attention", ()),
    "mamba2": ("it is a state space model without any attention", ()),
    "rwkv": ("it is recurrent, and has no attention", ()),
    "dbrx": ("its queries, keys, and values are one clipped tensor without biases", _ZERO),
    "nemotron": ("its norms store 1 + gain with biases, and its MLPs are not gated", _ALL),
    "persimmon": ("its queries, keys, and values are one tensor, with norms that have biases",
                  _CONSTANT),
    "cohere2_moe": ("its MLPs are experts beside blocks without positions", _ALL),
    "bert": ("it is an encoder, and predicts no next token", ()),
    "t5": ("it is an encoder and a decoder; only decoders recite as measured here", ()),
    "bart": ("it is an encoder with a decoder that attends to it", ()),
}  # fmt: skip
REFUSALS = {name: Refusal(reason, could) for name, (reason, could) in _TYPES.items()}
