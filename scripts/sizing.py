#!/usr/bin/env python3
"""Memory of a GPU that a stage takes, by model and method, from what the trainer allocates. Computes only.

Usage: sizing.py [config.json...]. Without one it prints the tables of docs/sizing.md. With --check it prints nothing, and
fails if they are not there. Bytes; GB are 10^9.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """The sizes in a config.json of the Llama family."""

    name: str
    hidden: int
    layers: int
    mlp: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int
    tied: bool

    @staticmethod
    def read(file: Path) -> "Model":
        c = json.loads(file.read_text())
        heads, hidden = c["num_attention_heads"], c["hidden_size"]
        return Model(
            file.parent.name, hidden, c["num_hidden_layers"], c["intermediate_size"], heads,
            c.get("num_key_value_heads") or heads, c.get("head_dim") or hidden // heads, c["vocab_size"],
            c.get("tie_word_embeddings", False),
        )  # fmt: skip

    @property
    def projections(self) -> int:
        query, shared = self.heads * self.head, self.key_value_heads * self.head
        return self.layers * (self.hidden * (2 * query + 2 * shared) + 3 * self.hidden * self.mlp)

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.projections + embeddings + (2 * self.layers + 1) * self.hidden

    def adapter(self, rank: int) -> int:
        """Parameters of adapters on all seven projections."""
        query, shared = self.heads * self.head, self.key_value_heads * self.head
        both_sides = 2 * (self.hidden + query) + 2 * (self.hidden + shared) + 3 * (self.hidden + self.mlp)
        return self.layers * rank * both_sides


@dataclass(frozen=True)
class Run:
    """What is done with a model."""

    method: str  # SFT, DPO, PPO or Reward
    lora: int  # rank; 0 trains everything
    bfloat16: bool
    tokens: int  # of a micro-batch
    responses: int  # those of them that belong to responses
    sampled: int  # tokens of all sequences that are sampled at once, prompts included
    response: int  # tokens of one response


def terms(m: Model, run: Run) -> dict[str, int]:
    """Bytes on the GPU by what they are for."""
    width = 2 if run.bfloat16 else 4
    trained = m.adapter(run.lora) if run.lora else m.parameters
    # What is trained is Float32 whatever the precision; what multiplies activations is cast for a step, and kept until its
    # backward pass.
    weights = width * m.parameters + 4 * trained if run.lora else 4 * trained
    cast = m.projections + (0 if run.method == "Reward" else m.vocabulary * m.hidden)
    casts = 2 * cast if run.bfloat16 and not run.lora else 0
    head = 0 if run.method == "Reward" else 16 * m.vocabulary * run.responses
    query = m.heads * m.head
    per_layer = 16 * m.hidden + 10 * query + 8 * m.mlp if run.bfloat16 else 24 * m.hidden + 20 * query + 16 * m.mlp
    # While the gradients of earlier micro-batches are there, those of embedding and head are made beside them.
    beside = 0 if run.lora else 4 * m.vocabulary * m.hidden * (1 if run.method == "Reward" else 2)
    step = casts + m.layers * per_layer * run.tokens + head + beside
    cache = 2 * m.layers * m.key_value_heads * m.head * width * run.sampled if run.method == "PPO" else 0
    gradients = 4 * trained
    # Before the optimiser is made, 32 sequences at a time.
    reference_pass = 16 * m.vocabulary * 32 * run.response if run.method == "DPO" else 0
    return {
        "weights": weights,
        "gradients": gradients,
        "AdamW": 8 * trained,
        # With adapters the reference is the same weights with the adapters off; SFT has none.
        "reference": 0 if run.lora or run.method in ("SFT", "Reward") else width * m.parameters,
        "reward model": width * m.parameters if run.method == "PPO" else 0,
        "one step": step,
        "cache": cache,
        # Nothing of a step is there while responses are sampled, nor anything of AdamW while the reference reads.
        "peak": max(step + gradients, cache, reference_pass - 8 * trained),
    }


def total(found: dict[str, int]) -> int:
    return sum(found[name] for name in ("weights", "AdamW", "reference", "reward model", "peak"))


MODELS = [
    Model("SmolLM2-135M", 576, 30, 1536, 9, 3, 64, 49152, True),
    Model("SmolLM2-360M", 960, 32, 2560, 15, 5, 64, 49152, True),
    Model("Llama-3.2-1B", 2048, 16, 8192, 32, 8, 64, 128256, True),
    Model("SmolLM2-1.7B", 2048, 24, 8192, 32, 32, 64, 49152, True),
    Model("Llama-3.2-3B", 3072, 28, 8192, 24, 8, 128, 128256, True),
    Model("Mistral-7B-v0.3", 4096, 32, 14336, 32, 8, 128, 32768, False),
    Model("Llama-3.1-8B", 4096, 32, 14336, 32, 8, 128, 128256, False),
]
METHODS = ("Reward", "SFT", "DPO", "PPO")


def gb(number: int) -> str:
    return f"{number / 1e9:.1f}"


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f"{title}:\n", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def tables(models: list[Model]) -> Iterator[str]:
    usual = {"tokens": 2048, "responses": 1024, "sampled": 32768, "response": 256}
    for lora, bfloat16, title in (
        (0, False, "All weights, `Float32`"), (0, True, "All weights, `BFloat16`"), (16, True, "LoRA of rank 16, `BFloat16`"),
    ):  # fmt: skip
        rows = [
            [m.name, f"{m.parameters / 1e9:.2f}", *(gb(total(terms(m, Run(x, lora, bfloat16, **usual)))) for x in METHODS)]
            for m in models
        ]
        yield table(title, ["model", "parameters, billions", *METHODS], rows)
    names = ["weights", "gradients", "AdamW", "reference", "reward model", "one step", "cache"]
    for lora, title in ((16, "The terms of PPO, LoRA of rank 16, `BFloat16`"), (0, "The terms of PPO, all weights, `BFloat16`")):
        found = [(m, terms(m, Run("PPO", lora, True, **usual))) for m in models]
        yield table(title, ["model", *names, "at most"], [[m.name, *(gb(t[n]) for n in names), gb(total(t))] for m, t in found])


def main(arguments: list[str]) -> None:
    if arguments == ["--check"]:
        document = Path(__file__).parent.parent / "docs/sizing.md"
        missing = [made for made in tables(MODELS) if f"\n{made}\n" not in document.read_text()]
        if missing:
            sys.exit(f"{document} is not what scripts/sizing.py says; it lacks\n\n" + "\n".join(missing))
        return
    for made in tables([Model.read(Path(file)) for file in arguments] or MODELS):
        print(made)


if __name__ == "__main__":
    main(sys.argv[1:])
