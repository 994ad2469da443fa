"""Reading a model's tensors one at a time, wherever it comes from: `open_source(folder or Hub id)`."""
