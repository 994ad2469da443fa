"""The way of the data: source → census → cost table → plan → encode → file. Read `compress.py` first."""
