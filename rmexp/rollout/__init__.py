"""Policies put to the test in a simulator; nothing here knows a data set, an algorithm or a run."""
