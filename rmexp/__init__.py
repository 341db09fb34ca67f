"""Train robot policies from recorded demonstrations, and measure how good they are."""

from __future__ import annotations

__version__ = "0.1.0"
