"""Processes: their life, the running stack, HTTP servers, kernels compiled ahead."""
