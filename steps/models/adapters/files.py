"""The names of an adapter's files and of what is in them."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NAME = "default"  # of the one adapter of a PEFT model
PREFIX = "base_model.model."  # of its tensors' names
