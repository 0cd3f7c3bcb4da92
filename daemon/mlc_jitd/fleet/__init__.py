"""What goes beyond one host: libraries and kernels shared through an object store, and compiles done elsewhere.

Nothing here is imported unless `remote` or `executor` is set, and nothing here is ever waited for by a hit. What does
not belong here: the local cache (`store`), and what a request means (`identity`).
"""

from __future__ import annotations
