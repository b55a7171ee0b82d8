"""The texts that parity is checked on."""

# For logits: one of each kind that a model meets.
LOGITS = {
    "plain": "The capital of France is Paris, and the river that runs through it is called the Seine.",
    "code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "digits": "In 1969, 600 million people watched; 3.14159 x 2 = 6.28318, and 10% of 1,000 is 100.",
    "emoji": "Well done! \U0001f389\U0001f44d\U0001f3fd Caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \u2013 \u201cquotes\u201d \u2026",
    "chat": "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>\n",
}

# For tokens: the same, and what tokenizers trip over.
TOKENS = {
    **LOGITS,
    "empty": "",
    "spaces": "  two leading, two trailing  \n\n\n\tand a tab \r\n",
    "contractions": "I'll say it's what they've done; DON'T shout.",
    "digit runs": "0 00 000 1234567890 v1.2.3 2026-11-24 \u0663\u0664 \u00bd",
    "joined emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \U0001f600\U0001f600",
    "combining": "e\u0301 n\u0303 \u0915\u094d\u0937 \u1112\u1161\u11ab",
    "special inside": "a<|im_end|>b <|endoftext|><|im_start|> <|im_ end|>",
    "long word": "Donaudampfschifffahrtsgesellschaftskapit\u00e4n",
    "control": "nul\u0000 bell\u0007 replacement\ufffd bom\ufeff",
}

# Conversations, rendered by the model's own template.
CHATS = [
    [{"role": "user", "content": "Name a colour."}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": " Is 7 < 8 & prime? \n"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Caf\u00e9 \U0001f389"},
    ],
]
