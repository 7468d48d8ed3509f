"""Training: Detectron2's trainer with our data, checkpointer and checks of the input."""
