"""A compiler that behaves on command: the double of mlc_llm. Standard library only, starts in milliseconds.

It stands where the real one would (``python -m mlc_llm compile``) and takes the same arguments; see ``cli/compile.py``
for what it can be told to do.
"""

from __future__ import annotations

from .libinfo import __version__ as __version__
