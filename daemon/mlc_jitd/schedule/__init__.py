"""When a compile may start: what the host has (`capacity`), and who is next (`queue`).

Nothing is re-exported here, so that importing the pure queue imports no reader. docs/scheduling.md is the document.
"""

from __future__ import annotations
