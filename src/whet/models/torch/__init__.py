"""PyTorch modules: built by a user's factory, changed by edits, stored as origin + edits + safetensors."""
