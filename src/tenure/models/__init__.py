"""Where a model comes from: hub id, folder, GGUF file, or the embedded default."""
