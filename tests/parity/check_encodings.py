"""Imports a small random model with every GGUF encoding and compares each weight, bit for bit, with the gguf package.

Usage: check_encodings.py TRAINER
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Encoding
from gguf import GGUFReader, GGUFWriter, dequantize
from gguf.constants import GGML_QUANT_SIZES
from safetensors.numpy import load_file

HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY = 256, 4, 2, 512, 256
PROJECTIONS = {
    "attn_q": ("self_attn.q_proj", (HIDDEN, HIDDEN)),
    "attn_k": ("self_attn.k_proj", (HIDDEN // HEADS * KV_HEADS, HIDDEN)),
    "attn_v": ("self_attn.v_proj", (HIDDEN // HEADS * KV_HEADS, HIDDEN)),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HIDDEN)),
    "ffn_gate": ("mlp.gate_proj", (FEED_FORWARD, HIDDEN)),
    "ffn_up": ("mlp.up_proj", (FEED_FORWARD, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, FEED_FORWARD)),
}
# Where each encoding's blocks hold 16-bit scales; every other byte may have any value.
SCALES = {
    Encoding.Q4_0: [0],
    Encoding.Q4_1: [0, 2],
    Encoding.Q5_0: [0],
    Encoding.Q5_1: [0, 2],
    Encoding.Q8_0: [0],
    Encoding.Q4_K: [0, 2],
    Encoding.Q5_K: [0, 2],
    Encoding.Q6_K: [208],
    Encoding.F16: [0],
    Encoding.BF16: [0],
}


def random_blocks(rng: np.random.Generator, shape: tuple[int, int], encoding: Encoding) -> np.ndarray:
    values, size = GGML_QUANT_SIZES[encoding]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)
    for at in SCALES[encoding]:
        scale = rng.standard_normal(blocks.shape[:2] + (1,)).astype(np.float16)
        blocks[:, :, at : at + 2] = scale.view(np.uint8)
    return blocks.reshape(shape[0], -1)


def write_model(path: Path, layers: int) -> None:
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["t", "1", *(f"t{i}" for i in range(VOCABULARY - 2))])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t 1"])
    encodings = list(SCALES)

    def add(name: str, shape: tuple[int, int], encoding: Encoding) -> None:
        writer.add_tensor(f"{name}.weight", random_blocks(rng, shape, encoding), raw_dtype=encoding)

    add("token_embd", (VOCABULARY, HIDDEN), Encoding.Q6_K)
    add("output", (VOCABULARY, HIDDEN), Encoding.Q5_K)
    writer.add_tensor("output_norm.weight", rng.standard_normal(HIDDEN).astype(np.float32))
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", rng.standard_normal(HIDDEN).astype(np.float32))
        for i, (name, (_, shape)) in enumerate(PROJECTIONS.items()):
            add(f"blk.{layer}.{name}", shape, encodings[(layer * len(PROJECTIONS) + i) % len(encodings)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def expected(path: Path) -> dict[str, np.ndarray]:
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    norms = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    weights = {}
    for tensor in GGUFReader(path).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.split(".")
        if parts[0] != "blk":
            weights[f"{names[parts[0]]}.weight"] = values
            continue
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(parts[2])
        if heads:
            pairs = values.reshape(heads, -1, 2, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        name = norms.get(parts[2]) or PROJECTIONS[parts[2]][0]
        weights[f"model.layers.{parts[1]}.{name}.weight"] = values
    return weights


def main(trainer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gguf, out = Path(folder) / "random.gguf", Path(folder) / "model"
        write_model(gguf, layers=2)
        subprocess.run([trainer, "import", "--gguf", gguf, "--out", out], check=True, stdout=subprocess.DEVNULL)
        found, wanted = load_file(out / "model.safetensors"), expected(gguf)
    if found.keys() != wanted.keys():
        sys.exit(f"tensors differ: {sorted(found.keys() ^ wanted.keys())}")
    for name, values in wanted.items():
        if not np.array_equal(found[name].view(np.uint32), values.view(np.uint32)):
            sys.exit(f"{name} differs by up to {np.nanmax(np.abs(found[name] - values))}")
    print(f"encodings: {len(wanted)} tensors in {len(SCALES) + 1} encodings are equal bit for bit")


if __name__ == "__main__":
    main(sys.argv[1])
