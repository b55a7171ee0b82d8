"""Compares what we compute from a saved folder with what transformers and PEFT compute from it, on every text.

Usage: check_saved.py TRAINER FOLDER [--base BASE_DIR]

FOLDER holds a causal model, a reward model (one label), or a PEFT adapter of BASE_DIR. Our values are those of
`plumbline-trainer inspect`. transformers computes in 64 bits, so that its own rounding does not count as ours.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import golden
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

# Largest difference of a score; that of a logit is in the golden file, text by text (0.001, with rare characters 0.01).
SCORE_TOLERANCE = 1e-4
# PEFT's own use of transformers; says nothing about a folder.
NOT_OURS = "`is_gradient_checkpointing` is deprecated"


def check(trainer: str, folder: Path, base: Path | None = None) -> list[torch.Tensor]:
    """Compares every text, ends the program if one differs, and gives our values."""
    if base is None:
        check_stored(folder)
    model, tokenizer = load(folder, base)
    texts = json.loads((golden.FOLDER / "smollm2_logits.json").read_text(encoding="utf-8"))["texts"]
    if type(model).__name__.endswith("SequenceClassification"):
        # A turn of a conversation ends with the end token, which is part of what is scored.
        ended = [entry["text"].rstrip("\n") for entry in texts if entry["name"] == "chat"]
        return check_scores(trainer, folder, model, tokenizer, [entry["text"] for entry in texts] + ended)
    return [check_logits(trainer, folder, base, model, tokenizer, entry) for entry in texts]


def check_logits(trainer, folder, base, model, tokenizer, entry: dict) -> torch.Tensor:
    ours = inspect(trainer, folder, base, entry["text"])
    same_tokens(tokenizer, entry["text"], ours)
    theirs = alone(model, ours)[0]
    difference = largest_difference(ours["logits"], theirs)
    same = (ours["logits"].argmax(-1) == theirs.argmax(-1)).float().mean().item()
    print(f"  {entry['name']}: largest difference of a logit {difference:.2g}, same first choice {same:.1%}", flush=True)
    require(difference, entry["tolerance"])
    return ours["logits"]


def check_scores(trainer, folder, model, tokenizer, texts: list[str]) -> list[torch.Tensor]:
    found = [inspect(trainer, folder, None, text) for text in texts]
    for text, ours in zip(texts, found):
        same_tokens(tokenizer, text, ours)
    # As people call it: all texts in one batch, filled up by the tokenizer.
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    computed = {"alone": torch.cat([alone(model, ours)[0] for ours in found])}
    # With these, transformers rotates every text by the length of the longest in the batch, its padding included.
    by_length = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope")
    # Its own attention takes the softmax in 32 bits, where the lowest number of 64 bits is minus infinity: rows of padding that
    # see padding alone become NaN.
    if not by_length and model.config._attn_implementation != "eager":
        with torch.no_grad():
            computed["in one batch"] = model(**batch).logits[:, 0]
    scores = torch.cat([ours["logits"] for ours in found])
    for how, theirs in computed.items():
        difference = largest_difference(scores, theirs)
        print(f"  {len(texts)} texts {how}: largest difference of a score {difference:.2g}", flush=True)
        require(difference, SCORE_TOLERANCE)
    return [ours["logits"] for ours in found]


def alone(model: torch.nn.Module, ours: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model computes from one text, whatever it has read before."""
    for module in model.modules():
        # Dynamic rotary positions remember the longest text.
        if getattr(module, "rope_type", None) == "dynamic":
            module.max_seq_len_cached, module.inv_freq = module.original_max_seq_len, module.original_inv_freq.clone()
    with torch.no_grad():
        return model(ours["input_ids"].unsqueeze(0)).logits


def load(folder: Path, base: Path | None) -> tuple[torch.nn.Module, transformers.PreTrainedTokenizerBase]:
    """Loads without a word of warning: a weight that is missing would be made up, and one too many be left out."""
    said = Said()
    transformers.logging.set_verbosity_warning()
    for name in ("transformers", "peft"):
        logging.getLogger(name).addHandler(said)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = load_adapter(folder, base) if base else load_model(folder)
    messages = said.messages + [str(warning.message) for warning in warned]
    ours = [message for message in messages if not message.startswith(NOT_OURS)]
    if ours:
        sys.exit(f"{folder}: loading it warns: " + "\n".join(ours))
    return model.eval(), tokenizer


def load_model(folder: Path) -> torch.nn.Module:
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    auto = AutoModelForSequenceClassification if architecture.endswith("SequenceClassification") else AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            sys.exit(f"{folder}: {problem.replace('_', ' ')}: {sorted(map(str, report[problem]))[:5]}")
    return model


def check_stored(folder: Path) -> None:
    """config.json names the type of the weights, once, and a model that is loaded as it says has the very numbers of the file."""
    config = json.loads((folder / "config.json").read_text())
    said = [config[key] for key in ("dtype", "torch_dtype") if key in config]
    if len(said) != 1:
        sys.exit(f"{folder}: expected one of dtype and torch_dtype in config.json, found {said}")
    stored = {}
    for file in sorted(folder.glob("model*.safetensors")):
        stored |= load_file(file)
    # The head of a reward model is kept in 32 bits whatever the rest is.
    types = {str(tensor.dtype).removeprefix("torch.") for name, tensor in stored.items() if name != "score.weight"}
    if types != set(said):
        sys.exit(f"{folder}: config.json says {said[0]}, and the weights are {sorted(types)}")
    architecture = config["architectures"][0]
    auto = AutoModelForSequenceClassification if architecture.endswith("SequenceClassification") else AutoModelForCausalLM
    loaded = auto.from_pretrained(folder, dtype="auto").state_dict()
    for name, tensor in stored.items():
        # Renamed as it is read.
        name = "lm_head.weight" if name == "embed_out.weight" and name not in loaded else name
        if not torch.equal(loaded[name], tensor.to(loaded[name].dtype)):
            sys.exit(f"{folder}: {name} is another tensor once it is loaded")
    print(f"  {len(stored)} tensors of {said[0]} are loaded as they are", flush=True)


def load_adapter(folder: Path, base: Path) -> torch.nn.Module:
    from peft import PeftModel, get_peft_model_state_dict

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64), folder)
    saved, used = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    if saved.keys() != used.keys():
        sys.exit(f"{folder}: PEFT uses other tensors than are saved: {sorted(saved.keys() ^ used.keys())[:5]}")
    return model


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def inspect(trainer: str, folder: Path, base: Path | None, text: str) -> dict[str, torch.Tensor]:
    model = ["--model", base, "--adapter", folder] if base else ["--model", folder]
    with tempfile.TemporaryDirectory() as scratch:
        logits = Path(scratch) / "logits.safetensors"
        command = [trainer, "inspect", *model, "--text", text, "--logits", logits]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
        values = load_file(logits)
    scores = [float(line.split()[1]) for line in printed.splitlines() if line.startswith("score ")]
    if scores and abs(scores[0] - values["logits"].item()) > 5.1e-5:
        sys.exit(f"{folder}: inspect prints the score {scores[0]} and writes {values['logits'].item()}")
    return values


def same_tokens(tokenizer, text: str, ours: dict[str, torch.Tensor]) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids != ours["input_ids"].tolist():
        sys.exit(f"{text!r} has other tokens: ours {ours['input_ids'].tolist()}, transformers {ids}")


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    if theirs.shape != ours.shape:
        sys.exit(f"shapes differ: ours {tuple(ours.shape)}, transformers {tuple(theirs.shape)}")
    return (ours.double() - theirs).abs().max().item()


def require(difference: float, tolerance: float) -> None:
    # Written so that a difference that is not a number fails too.
    if not difference <= tolerance:
        sys.exit(f"the largest difference is {difference:.3g}, beyond {tolerance}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer", help="the program plumbline-trainer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, help="folder of the base model of an adapter")
    arguments = parser.parse_args()
    print(f"{arguments.folder}:")
    check(arguments.trainer, arguments.folder, arguments.base)


if __name__ == "__main__":
    main()
