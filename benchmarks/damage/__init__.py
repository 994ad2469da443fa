"""Parts of `benchmarks/fidelity.py` and `benchmarks/prediction.py`."""
