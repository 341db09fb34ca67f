"""Demonstration files in, batches of windows out; nothing here knows an algorithm or a config."""
