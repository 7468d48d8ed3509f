"""Reading checkpoints: safe files, the authors' key names."""
