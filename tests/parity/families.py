"""A tiny model of each family and variant that is supported, and weights that any language can compute.

A weight is a function of its name: number i of it is the 24 highest bits of a hash (lowbias32 of Wellons) of i and the
name's FNV-1a hash, as a fraction from -0.5 to 0.5, times a power of two. Such a number is exact in 32 bits.
"""

import math

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM

BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": None,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOW_OFF = {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1}

# config.json as transformers 4 writes it.
CONFIGS = {
    "llama": {"model_type": "llama", "rope_theta": 1e4, "tie_word_embeddings": True},
    "llama3": {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3, "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", "rope_theta": 1e6, "sliding_window": None, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": False} | WINDOW_OFF,
    "qwen2-tied": {"model_type": "qwen2", "rope_theta": 1e4, "tie_word_embeddings": True} | WINDOW_OFF,
    "qwen3": {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 12, "tie_word_embeddings": True} | WINDOW_OFF,
    "qwen3-bias": {
        "model_type": "qwen3",
        "rope_theta": 1e4,
        "head_dim": 16,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
}


def config(name: str, **changes) -> dict:
    return BASE | CONFIGS[name] | changes


def model(config: dict, dtype: torch.dtype) -> torch.nn.Module:
    """The model of a config, its weights computed from their names. The weights are exact in any type of 32 bits or more."""
    found = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.copy_(weight(name, tuple(parameter.shape)))
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
    if name.endswith("norm.weight"):
        values = 1 + fraction
    elif "embed_tokens" in name:
        values = 4 * fraction
    else:
        values = fraction
    return torch.from_numpy(values).reshape(shape)
