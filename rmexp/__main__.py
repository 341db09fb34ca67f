"""`python -m rmexp key=value ...`; everything happens in `rmexp.cli`."""

from __future__ import annotations

from rmexp.cli import main

if __name__ == "__main__":
    main()
