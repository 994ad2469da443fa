"""Arithmetic on compressed weights: `ops` (what), `reference` (the truth), `select` (which, and why)."""
