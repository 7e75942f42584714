"""Limits for tests that compare what was found live with what is found again."""

from skywright.callbacks.stream_analysis import BacklogLimits

ALL_FRAMES = BacklogLimits(max_behind_s=600.0, catch_up_s=600.0)
"""No frame is skipped, however slow the computer is."""
