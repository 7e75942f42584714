"""Analyses: statistics of a run that do not depend on how its frames arrive."""

from skywright.analysis.framework import Analysis, IdentityOrder, Statistic, find_late, whole_blocks
from skywright.analysis.inputs import ArrayInput, Batch, join_by_identity

__all__ = [
    "Analysis",
    "ArrayInput",
    "Batch",
    "IdentityOrder",
    "Statistic",
    "find_late",
    "join_by_identity",
    "whole_blocks",
]
