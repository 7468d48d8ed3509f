"""Data: the generated shapes dataset, training augmentation and the dataset mapper."""
