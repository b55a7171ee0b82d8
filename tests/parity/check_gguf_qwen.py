"""Imports GGUF files of small random Qwen2 and Qwen3 models with Qwen3's real vocabulary, and compares logits and tokens.

Usage: check_gguf_qwen.py TRAINER TOKENIZE TOKENIZER_DIR

The files are written as llama.cpp's converter writes those of these families. What is imported has to load in transformers
and to give its logits, and the imported tokenizer the tokens of the one that it was made from.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import check_families
import check_qwen3_tokens
import families
import torch
from gguf import GGUFWriter, TokenType
from transformers import AutoConfig, AutoModelForCausalLM

PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def main(trainer: str, tokenize: str, tokenizer: str) -> None:
    for name in ("qwen2", "qwen3"):
        with tempfile.TemporaryDirectory() as scratch:
            gguf, folder = Path(scratch) / "model.gguf", Path(scratch) / "model"
            write(name, Path(tokenizer), gguf)
            subprocess.run([trainer, "import", "--gguf", gguf, "--out", folder], check=True, stderr=subprocess.DEVNULL)
            print(f"{name} from a GGUF file:", flush=True)
            check_families.check_logits(trainer, folder, check_families.SENTENCE * 12)
            check_qwen3_tokens.main(tokenize, tokenizer, str(folder))


def write(name: str, tokenizer: Path, path: Path) -> None:
    rules = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = dict(rules["model"]["vocab"]) | {token["content"]: token["id"] for token in rules["added_tokens"]}
    torch.manual_seed(check_families.SEED)
    config = AutoConfig.for_model(**families.config(name, vocab_size=len(tokens), hidden_size=16, head_dim=8))
    model = AutoModelForCausalLM.from_config(config)

    writer = GGUFWriter(path, name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    ids = {id: token for token, id in tokens.items()}
    kinds = {t["id"]: TokenType.CONTROL if t["special"] else TokenType.USER_DEFINED for t in rules["added_tokens"]}
    writer.add_token_list([ids[i] for i in range(len(ids))])
    writer.add_token_types([kinds.get(i, TokenType.NORMAL) for i in range(len(ids))])
    writer.add_token_merges([" ".join(pair) for pair in rules["model"]["merges"]])
    writer.add_eos_token_id(tokens["<|im_end|>"])
    writer.add_pad_token_id(tokens["<|endoftext|>"])
    writer.add_bos_token_id(tokens["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"])
    for full, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        module, _, what = full.rpartition(".")
        if module in OTHERS:
            stored = OTHERS[module]
        else:
            layer, _, part = module.removeprefix("model.layers.").partition(".")
            stored = f"blk.{layer}.{PROJECTIONS[part]}"
        writer.add_tensor(f"{stored}.{what}", parameter.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
