"""Published config.json files give the published number of parameters."""

import json
import math

import pytest

from safety_jax.models import llama
from safety_jax.models.folders import hf_config

# As published, without the attributes that `test_upstream.py` shows to be ignored.
PUBLISHED = {
    "Llama-2-7b": (
        '{"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,'
        ' "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,'
        ' "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",'
        ' "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,'
        ' "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,'
        ' "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 32000}',
        6_738_415_616,
    ),
    "Llama-3.2-1B": (
        '{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,'
        ' "eos_token_id": [128001, 128008], "hidden_act": "silu", "hidden_size": 2048,'
        ' "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,'
        ' "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,'
        ' "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0,'
        ' "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3",'
        ' "original_max_position_embeddings": 8192}, "rope_theta": 500000.0,'
        ' "tie_word_embeddings": true, "vocab_size": 128256}',
        1_235_814_400,
    ),
    "Yi-6B": (
        '{"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,'
        ' "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096,'
        ' "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,'
        ' "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,'
        ' "rope_theta": 5000000.0, "tie_word_embeddings": false, "vocab_size": 64000}',
        6_061_035_520,
    ),
    "Falcon3-7B": (
        '{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 256,'
        ' "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,'
        ' "intermediate_size": 23040, "max_position_embeddings": 32768, "mlp_bias": false,'
        ' "model_type": "llama", "num_attention_heads": 12, "num_hidden_layers": 28,'
        ' "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-06,'
        ' "rope_scaling": null, "rope_theta": 1000042, "tie_word_embeddings": false,'
        ' "vocab_size": 131072}',
        7_455_550_464,
    ),
    "DeepSeek-R1-Distill-Llama-8B": (
        '{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "hidden_act": "silu",'
        ' "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,'
        ' "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",'
        ' "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,'
        ' "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0,'
        ' "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,'
        ' "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": false,'
        ' "vocab_size": 128256}',
        8_030_261_248,
    ),
    "internlm2-7b": (
        '{"architectures": ["InternLM2ForCausalLM"], "attn_implementation": "eager", "auto_map":'
        ' {"AutoConfig": "configuration_internlm2.InternLM2Config", "AutoModelForCausalLM":'
        ' "modeling_internlm2.InternLM2ForCausalLM"}, "bias": false, "hidden_act": "silu",'
        ' "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,'
        ' "max_position_embeddings": 32768, "model_type": "internlm2", "num_attention_heads": 32,'
        ' "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,'
        ' "rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 1000000,'
        ' "tie_word_embeddings": false, "vocab_size": 92544}',
        7_737_708_544,
    ),
    "Mistral-7B-v0.1": (
        '{"architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,'
        ' "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",'
        ' "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,'
        ' "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,'
        ' "tie_word_embeddings": false, "vocab_size": 32000}',
        7_241_732_096,
    ),
    "Qwen2.5-0.5B": (
        '{"architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896,'
        ' "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,'
        ' "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,'
        ' "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,'
        ' "sliding_window": 32768, "tie_word_embeddings": true, "use_mrope": false,'
        ' "use_sliding_window": false, "vocab_size": 151936}',
        494_032_768,
    ),
    "Qwen3-0.6B": (
        '{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128,'
        ' "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,'
        ' "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",'
        ' "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,'
        ' "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,'
        ' "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false,'
        ' "vocab_size": 151936}',
        596_049_920,
    ),
    "gemma-2-9b": (
        '{"architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "head_dim": 256,'
        ' "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "hidden_size": 3584,'
        ' "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh", "hidden_activation":'
        ' "gelu_pytorch_tanh", "intermediate_size": 14336, "max_position_embeddings": 8192,'
        ' "model_type": "gemma2", "num_attention_heads": 16, "num_hidden_layers": 42,'
        ' "num_key_value_heads": 8, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,'
        ' "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096,'
        ' "vocab_size": 256000}',
        9_241_705_984,
    ),
    "gemma-3-27b": (
        '{"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,'
        ' "eos_token_id": [1, 106], "image_token_index": 262144, "mm_tokens_per_image": 256,'
        ' "model_type": "gemma3", "text_config": {"head_dim": 128, "hidden_size": 5376,'
        ' "intermediate_size": 21504, "model_type": "gemma3_text", "num_attention_heads": 32,'
        ' "num_hidden_layers": 62, "num_key_value_heads": 16, "query_pre_attn_scalar": 168,'
        ' "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},'
        ' "vision_config": {"model_type": "siglip_vision_model"}}',
        27_009_346_304,
    ),
    "gemma-2b": (
        '{"architectures": ["GemmaForCausalLM"], "attention_bias": false, "bos_token_id": 2,'
        ' "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu", "hidden_activation": null,'
        ' "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 16384,'
        ' "max_position_embeddings": 8192, "model_type": "gemma", "num_attention_heads": 8,'
        ' "num_hidden_layers": 18, "num_key_value_heads": 1, "rms_norm_eps": 1e-06,'
        ' "rope_scaling": null, "rope_theta": 10000.0, "vocab_size": 256000}',
        2_506_172_416,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_give_the_published_number_of_parameters(name):
    text, expected = PUBLISHED[name]
    config = hf_config.parse(json.loads(text), name)
    declared = llama.parameters(config).values()
    assert sum(math.prod(parameter.shape) for parameter in declared) == expected
