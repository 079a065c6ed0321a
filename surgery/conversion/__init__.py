"""Converts a checkpoint to a GGUF file, which llama.cpp reads."""
