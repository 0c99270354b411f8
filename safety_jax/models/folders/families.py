"""Tables of the attributes that each supported `model_type` may have in its config.json.

A new family of the same kind needs one entry in FAMILIES and a parity test against `transformers`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`: its class, the defaults of attributes a file may leave out, its switches.

    Only attributes that are in `defaults` are read.

    Attributes:
        defaults: the same as in `transformers`' config class; a test compares them.
        switched_off: attributes that are refused even if `transformers` does not read them, with
            the values that turn them off.
        unused: attributes of parts that the supported models do not have.
        query_key_value_bias, output_bias: None if `attention_bias` decides.
        windows: which layers have the sliding window, a name in `layer_kinds.WINDOWS`.
        rope_theta, local_theta: the defaults; `local_theta` is for layers with a window, and None
            if these have the same rope as the others.
        rope: the rotary settings if a file has none at all.
        library_code: pattern of `auto_map` values that name classes which `transformers` now has.
        activations: the spelling of each activation in files, and its name in `llama.ACTIVATIONS`.
        classifier: the class with a sequence head, if its name is irregular.
        norms, query_key_norm, norm_plus_one, files: see `llama.LlamaConfig`.
        mlp_width: the name of this attribute.
        padding: the default of `pad_token_id`, at which sequence heads never read.
        embedding: the scale of embeddings: "plain" is 1, "width" is the square root of the width,
            "multiplier" is the attribute `embedding_multiplier`.
    """

    architecture: str
    defaults: Mapping[str, Any]
    query_key_value_bias: bool | None = None
    output_bias: bool | None = None
    query_key_norm: str = "none"
    norms: str = "before"
    norm_plus_one: bool = False
    windows: str = "never"
    rope_theta: float = 10000.0
    rope: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    local_theta: float | None = None
    classifier: str | None = None
    embedding: str = "plain"
    files: str = "llama"
    mlp_width: str = "intermediate_size"
    library_code: str | None = None
    unused: frozenset[str] = frozenset()
    padding: int | None = None
    switched_off: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    activations: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"silu": "silu"})

    @property
    def activation(self) -> str:
        """The name of this attribute."""
        return "hidden_activation" if "hidden_activation" in self.defaults else "hidden_act"


ATTENTION_CAP = "attn_logit_softcapping"  # Gemma 2's cap of attention scores
LOCAL_THETA = "rope_local_base_freq"  # Gemma 3's spelling of the theta of layers with a window
COMMON = {
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": None,  # None: hidden_size / num_attention_heads
}
LLAMA = COMMON | {
    "vocab_size": 32000,
    "intermediate_size": 11008,
    "num_key_value_heads": None,  # None: num_attention_heads
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
}
QWEN = COMMON | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
GEMMA = COMMON | {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
GEMMA2 = {name: value for name, value in GEMMA.items() if name != "hidden_act"} | {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "final_logit_softcapping": 30.0,
    ATTENTION_CAP: 50.0,
}
MULTIPLIERS = {
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
}
OLMO2 = {name: value for name, value in LLAMA.items() if name != "mlp_bias"} | {
    "vocab_size": 50304,
    "rms_norm_eps": 1e-5,
}
# The first files of Gemma say "gelu" and mean the tanh approximation.
GELU = {"gelu_pytorch_tanh": "gelu_tanh"}
ONE_WAY = {"use_bidirectional_attention": (False, None)}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", LLAMA),
    "mistral": Family(
        "MistralForCausalLM",
        defaults=COMMON
        | {
            "vocab_size": 32000,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
        query_key_value_bias=False,
        output_bias=False,
        windows="always",
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", QWEN, query_key_value_bias=True, output_bias=False, windows="qwen"
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        QWEN | {"head_dim": 128, "attention_bias": False},
        query_key_norm="head",
        windows="qwen",
    ),
    # Some releases of transformers also wrote `hidden_activation`, which is null or says the same.
    "gemma": Family(
        "GemmaForCausalLM",
        GEMMA,
        switched_off={"hidden_activation": (None, "gelu_pytorch_tanh")},
        activations=GELU | {"gelu": "gelu_tanh"},
        embedding="width",
        norm_plus_one=True,
        padding=0,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        GEMMA2,
        switched_off=ONE_WAY | {"hidden_act": ("gelu_pytorch_tanh", "gelu", None)},
        activations=GELU,
        embedding="width",
        norms="both",
        norm_plus_one=True,
        windows="every other",
        padding=0,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {name: value for name, value in GEMMA2.items() if name != ATTENTION_CAP}
        | {
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "final_logit_softcapping": None,
            "sliding_window_pattern": 6,
            LOCAL_THETA: None,
        },
        # Query and key norms took the place of the cap: `transformers` keeps a value, unapplied.
        switched_off=ONE_WAY
        | {"hidden_act": ("gelu_pytorch_tanh", "gelu", None), ATTENTION_CAP: (None,)},
        activations=GELU,
        embedding="width",
        norms="both",
        norm_plus_one=True,
        query_key_norm="head",
        windows="by pattern",
        rope_theta=1_000_000.0,
        local_theta=10_000.0,
        classifier="Gemma3TextForSequenceClassification",
        padding=0,
    ),
    # Phi-3, Phi-3.5, Phi-4 and Phi-4-mini.
    "phi3": Family(
        "Phi3ForCausalLM",
        defaults=COMMON
        | {
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_key_value_heads": None,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "partial_rotary_factor": 1.0,
        },
        query_key_value_bias=False,
        output_bias=False,
        windows="always",
        files="phi3",
        library_code=r"(configuration|modeling)_phi3\.Phi3\w+",
        padding=32000,
    ),
    "olmo2": Family("Olmo2ForCausalLM", OLMO2, query_key_norm="width", norms="after", padding=1),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        OLMO2 | {"sliding_window": 4096, "layer_types": None},
        query_key_norm="width",
        norms="after",
        windows="all but every fourth",
        rope_theta=500_000.0,
        local_theta=500_000.0,
        padding=1,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        LLAMA
        | {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "layer_types": None,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
        },
        windows="without rope",
        rope_theta=2_000_000.0,
        padding=128004,
    ),
    "granite": Family("GraniteForCausalLM", LLAMA | MULTIPLIERS, embedding="multiplier"),
    # Granite 4, only the models without experts and without state spaces.
    "granitemoehybrid": Family(
        "GraniteMoeHybridForCausalLM",
        {name: value for name, value in LLAMA.items() if name != "mlp_bias"}
        | MULTIPLIERS
        | {
            "shared_intermediate_size": 1024,
            "num_local_experts": 8,
            "position_embedding_type": None,
            "layer_types": None,
        },
        embedding="multiplier",
        windows="hybrid",
        files="granite_hybrid",
        mlp_width="shared_intermediate_size",
        unused=frozenset(
            "mamba_n_heads mamba_n_groups mamba_d_state mamba_d_head mamba_d_conv mamba_expand"
            " mamba_chunk_size mamba_conv_bias mamba_proj_bias time_step_limit num_experts_per_tok"
            " output_router_logits router_aux_loss_coef layers_block_type".split()
        ),
    ),
    "ministral3": Family(
        "Ministral3ForCausalLM",
        defaults=COMMON
        | {
            "vocab_size": 131072,
            "intermediate_size": 14336,
            "num_hidden_layers": 34,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
        },
        query_key_value_bias=False,
        output_bias=False,
        windows="always",
        rope={
            "rope_type": "yarn",
            "rope_theta": 1_000_000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        padding=11,
    ),
}

# Vision-language models: the outer `model_type`, and that of the inner text model if its own part
# does not name one.
NESTED = {"gemma3": "gemma3_text", "mistral3": "mistral"}

ROPE_ATTRIBUTES = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})

# Attributes that are not implemented, with the values that turn them off. `attributes.py` decides
# on attributes that are in no table.
SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False, None),
    "auto_map": (None, {}),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
    "per_layer_config": (None,),
    "pretraining_tp": (1, None),
    "pruned_heads": ({},),
    "quantization_config": (None,),
    "rope_interleaved": (False,),
    "sliding_window": (None,),
    "tie_encoder_decoder": (False,),
    "use_mrope": (False,),
}
# A model with its own code may differ from the class of `transformers`, which never reads this.
OWN_CODE = frozenset({"auto_map"})

IRRELEVANT = frozenset(
    # origin, storage, execution and labels
    "_attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled"
    " _name_or_path architectures attn_implementation chunk_size_feed_forward dtype"
    " finetuning_task id2label is_llama_config label2id model_type num_labels"
    " output_attentions output_hidden_states prefix problem_type return_dict task_specific_params"
    " tf_legacy_loss tokenizer_class torch_dtype torchscript transformers.js_config"
    " transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache"
    " _sliding_window_pattern"  # transformers has made `layer_types` from it
    # dropout inside attention and before a head, which training here does not apply
    " attention_dropout classifier_dropout embd_pdrop hidden_dropout resid_pdrop"
    # token ids, which belong to tokenizer and generation
    " bos_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id"
    # generation settings, which older releases kept in this file
    " assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens"
    " diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size"
    " encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty"
    " forced_bos_token_id forced_eos_token_id length_penalty max_length max_sequence_length"
    " min_length no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule"
    " num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values"
    " repetition_penalty return_dict_in_generate suppress_tokens target_lookbehind temperature"
    " top_k top_p typical_p".split()
)
