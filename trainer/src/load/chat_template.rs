//! Chat templates (Jinja, as in Hugging Face `tokenizer_config.json`).
