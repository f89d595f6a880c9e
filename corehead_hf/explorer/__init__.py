"""The explorer: one self-contained HTML page on which the attention of every head is painted over an example's media.

The page needs no server and no network, and forbids both itself by its Content-Security-Policy.
"""

from corehead_hf.explorer.explore import explore
from corehead_hf.explorer.page import Page, page_of, write_page
from corehead_hf.explorer.scene import Scene, scene_of

__all__ = ["Page", "Scene", "explore", "page_of", "scene_of", "write_page"]
