"""Adaptive layer-wise mixed-precision quantization: a table of candidates in, a plan out. Needs no torch."""

from higgsx.almpq.budget import Budget
from higgsx.almpq.explain import explain
from higgsx.almpq.plan import Choice, Plan
from higgsx.almpq.solve import Solution, best_uniform, solve
from higgsx.almpq.table import UNITS, Candidate, CostTable, Group

__all__ = [
    "UNITS",
    "Budget",
    "Candidate",
    "Choice",
    "CostTable",
    "Group",
    "Plan",
    "Solution",
    "best_uniform",
    "explain",
    "solve",
]
