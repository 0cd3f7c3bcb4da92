"""One page that shows what a cache's history comes to: ``facts`` works it out, ``page`` shows it. Both are pure.

The plots are drawn here, as SVG in percents and pixels: a page that needs no network, no script and no plotting library
(the usual ones bring 1 to 4 MB of script into each file), and whose colours follow the reader's light or dark.

    facts    records, counts and manifests in, the figures of each plot out
    charts   figures in, SVG out
    markup   the only place that turns text into HTML; everything is escaped there
    page     the whole
"""

from __future__ import annotations

from .facts import Entry, Facts, facts
from .page import page

__all__ = ["Entry", "Facts", "facts", "page"]
