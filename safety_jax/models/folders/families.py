"""What each supported `model_type` may say in its config.json: the tables `hf_config.py` reads.

A new family of the same shape is one entry of FAMILIES, plus a parity test against `transformers`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`: its class, the defaults of attributes a file may leave out, its switches.

    Attributes:
        defaults: as in `transformers`' config class; a test compares them.
        switched_off: attributes that are refused whether `transformers` reads them or not, with the
            values that ask for nothing.
        query_key_value_bias, output_bias: None when `attention_bias` decides.
        activations: `hidden_act` as files spell it, and its name in `llama.ACTIVATIONS`.
        scaled_embeddings, norm_plus_one: see `llama.Config`.
    """

    architecture: str
    defaults: Mapping[str, Any]
    query_key_value_bias: bool | None
    output_bias: bool | None
    query_key_norm: bool
    switched_off: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    activations: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"silu": "silu"})
    scaled_embeddings: bool = False
    norm_plus_one: bool = False


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
FAMILIES = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        defaults=COMMON
        | {
            "vocab_size": 32000,
            "intermediate_size": 11008,
            "num_key_value_heads": None,  # None: num_attention_heads
            "max_position_embeddings": 2048,
            "attention_bias": False,
            "mlp_bias": False,
        },
        query_key_value_bias=None,
        output_bias=None,
        query_key_norm=False,
    ),
    "mistral": Family(
        architecture="MistralForCausalLM",
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
        query_key_norm=False,
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        defaults=QWEN,
        query_key_value_bias=True,
        output_bias=False,
        query_key_norm=False,
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        defaults=QWEN | {"head_dim": 128, "attention_bias": False},
        query_key_value_bias=None,
        output_bias=None,
        query_key_norm=True,
    ),
    # Gemma 1. Its first files say "gelu" and mean the tanh approximation; `hidden_activation` came
    # and went with some releases of transformers, and is null or says the same.
    "gemma": Family(
        architecture="GemmaForCausalLM",
        defaults=COMMON
        | {
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
        },
        switched_off={"hidden_activation": (None, "gelu_pytorch_tanh")},
        query_key_value_bias=None,
        output_bias=None,
        query_key_norm=False,
        activations={"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"},
        scaled_embeddings=True,
        norm_plus_one=True,
    ),
}

ROPE_THETA = 10000.0  # the default of every family
ROPE_ATTRIBUTES = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})
ROPE_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}

# Not implemented, with the values that ask for nothing; of others, see `attributes.py`.
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
# A model that brings code of its own says that the class of `transformers` is not it.
OWN_CODE = frozenset({"auto_map"})

IRRELEVANT = frozenset(
    # where the file comes from, how it is stored, run or labelled
    "_attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled"
    " _name_or_path architectures attn_implementation chunk_size_feed_forward dtype"
    " finetuning_task id2label is_llama_config label2id model_type num_labels"
    " output_attentions output_hidden_states prefix problem_type return_dict task_specific_params"
    " tf_legacy_loss tokenizer_class torch_dtype torchscript transformers.js_config"
    " transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache"
    # dropout inside attention and before a head, which tuning here leaves out
    " attention_dropout classifier_dropout hidden_dropout"
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
