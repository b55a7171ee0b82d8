"""A tiny model of each family and variant that is supported, and weights that any language can compute.

A weight is a function of its name: number i of it is the 24 highest bits of a hash (lowbias32 of Wellons) of i and the
name's FNV-1a hash, as a fraction from -0.5 to 0.5, times a power of two. Such a number is exact in 32 bits.
"""

import copy
import math

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = {"vocab_size": 96, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None, "torch_dtype": "float32"}
BASE = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
GEMMA = BASE | {"hidden_act": "gelu_pytorch_tanh", "head_dim": 12, "tie_word_embeddings": True}
GPT2 = COMMON | {"model_type": "gpt2", "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}
OPT = COMMON | {
    "model_type": "opt",
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "word_embed_proj_dim": 32,
}
NEOX = COMMON | {
    "model_type": "gpt_neox",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
YARN_SET = YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "mscale": 1.5, "mscale_all_dim": 0.5, "truncate": False}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}
WINDOW_OFF = {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1}
WINDOW_ON = {"use_sliding_window": True, "sliding_window": 32}
SLIDING_FIRST = ["sliding_attention", "full_attention"]

# config.json as transformers 4 writes it. Texts have 201 tokens: beyond the windows, and beyond the original contexts of
# rotary scaling.
CONFIGS = {
    "llama": BASE | {"model_type": "llama", "rope_theta": 1e4, "tie_word_embeddings": True},
    "llama-bias": BASE | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    "llama3": BASE | {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3, "tie_word_embeddings": False},
    "llama-linear": BASE
    | {"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama-dynamic": BASE
    | {"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "llama-yarn": BASE | {"model_type": "llama", "rope_scaling": YARN},
    "qwen2-yarn": BASE | {"model_type": "qwen2", "rope_theta": 1e6, "rope_scaling": YARN_SET} | WINDOW_OFF,
    "smollm3": BASE | {"model_type": "smollm3", "no_rope_layers": [1, 0], "tie_word_embeddings": True},
    "smollm3-window": BASE | {"model_type": "smollm3", "no_rope_layer_interval": 2, "rope_theta": 5e6} | WINDOW_ON,
    "mistral": BASE
    | {"model_type": "mistral", "rope_theta": 1e6, "sliding_window": None, "tie_word_embeddings": False},
    "mistral-window": BASE | {"model_type": "mistral", "rope_theta": 1e4, "sliding_window": 32},
    "qwen2": BASE | {"model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": False} | WINDOW_OFF,
    "qwen2-tied": BASE | {"model_type": "qwen2", "rope_theta": 1e4, "tie_word_embeddings": True} | WINDOW_OFF,
    "qwen2-window": BASE | {"model_type": "qwen2", "rope_theta": 1e4, "max_window_layers": 1} | WINDOW_ON,
    "qwen3": BASE | {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 12, "tie_word_embeddings": True} | WINDOW_OFF,
    "qwen3-bias": BASE
    | {
        "model_type": "qwen3",
        "rope_theta": 1e4,
        "head_dim": 16,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "qwen3-window": BASE | {"model_type": "qwen3", "head_dim": 8, "layer_types": SLIDING_FIRST} | WINDOW_ON,
    "gemma": GEMMA | {"model_type": "gemma", "rope_theta": 1e4, "hidden_act": "gelu"},
    "gemma2": GEMMA
    | {
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
        "sliding_window": 32,
    },
    "gemma3": GEMMA
    | {
        "model_type": "gemma3_text",
        "num_hidden_layers": 3,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 24,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 32,
        "sliding_window_pattern": 3,
    },
    "phi3": BASE | {"model_type": "phi3", "sliding_window": 32, "original_max_position_embeddings": 256},
    "phi3-longrope": BASE | {"model_type": "phi3", "rope_scaling": LONGROPE, "original_max_position_embeddings": 64},
    "phi3-partial": BASE
    | {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "num_attention_heads": 2,
        "rope_scaling": LONGROPE | {"short_factor": [1.0] * 6, "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]},
        "original_max_position_embeddings": 64,
        "tie_word_embeddings": True,
    },
    "olmo2": BASE | {"model_type": "olmo2", "rope_theta": 5e5, "tie_word_embeddings": False},
    "gpt2": GPT2 | {"activation_function": "gelu_new"},
    "gpt2-untied": GPT2 | {"n_inner": None, "tie_word_embeddings": False},
    "gpt_neox": NEOX | {"hidden_act": "gelu"},
    "gpt_neox-sequential": NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0, "attention_bias": False},
    "opt": OPT | {"activation_function": "relu"},
    "opt-after": OPT | {"do_layer_norm_before": False, "enable_bias": False},
}


def config(name: str, **changes) -> dict:
    return copy.deepcopy(CONFIGS[name] | changes)


def sized(name: str, vocabulary: int, hidden: int, inner: int) -> dict:
    """The config of a larger model."""
    keys = {
        "gpt2": ("n_embd", "n_inner"),
        "opt": ("hidden_size", "ffn_dim"),
    }
    (hidden_key, inner_key) = keys.get(CONFIGS[name]["model_type"], ("hidden_size", "intermediate_size"))
    changes = {"vocab_size": vocabulary, hidden_key: hidden, inner_key: inner}
    if "word_embed_proj_dim" in CONFIGS[name]:
        changes["word_embed_proj_dim"] = hidden
    scaling = CONFIGS[name].get("rope_scaling") or {}
    if "long_factor" in scaling:
        more = hidden // CONFIGS[name]["hidden_size"]
        spread = {key: [x for x in scaling[key] for _ in range(more)] for key in ("short_factor", "long_factor")}
        changes["rope_scaling"] = scaling | spread
    return config(name, **changes)


def stored_name(config: dict, name: str) -> str:
    """The name of a weight in files, which every version of transformers reads."""
    return "embed_out.weight" if config["model_type"] == "gpt_neox" and name == "lm_head.weight" else name


def model(config: dict, dtype: torch.dtype) -> torch.nn.Module:
    """The model of a config, its weights computed from their names. The weights are exact in any type of 32 bits or more."""
    # transformers writes into the objects that it is given.
    own = AutoConfig.for_model(**copy.deepcopy(config))
    found = AutoModelForCausalLM.from_config(own, dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.copy_(weight(stored_name(config, name), tuple(parameter.shape)))
    return found


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    x = numpy.arange(math.prod(shape), dtype=numpy.uint32) * numpy.uint32(0x9E3779B9) + numpy.uint32(seed)
    x ^= x >> numpy.uint32(16)
    x *= numpy.uint32(0x7FEB352D)
    x ^= x >> numpy.uint32(15)
    x *= numpy.uint32(0x846CA68B)
    x ^= x >> numpy.uint32(16)
    fraction = (x >> numpy.uint32(8)).astype(numpy.float64) / 2**24 - 0.5
    if name.endswith("norm.weight") or ".ln_" in name and name.endswith(".weight"):
        values = 1 + fraction
    elif any(part in name for part in ("embed_tokens", "wte", "embed_in")):
        values = 4 * fraction
    else:
        values = fraction
    return torch.from_numpy(values).reshape(shape)
