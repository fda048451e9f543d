"""Model files: reading GGUF by spans, tokenizers, chat templates, and the store on this machine."""
