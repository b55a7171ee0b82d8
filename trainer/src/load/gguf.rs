//! GGUF files: metadata, tensors, dequantisation.
