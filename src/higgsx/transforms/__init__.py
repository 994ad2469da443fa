"""Invertible changes of an input space: `W x = (W T⁻¹)(T x)`."""
