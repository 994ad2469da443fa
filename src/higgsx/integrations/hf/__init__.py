"""transformers as a guest of ours, and we as a guest of it. Importing this package imports neither."""
