"""Head maps: the RAM of every query head of one checkpoint, with provenance; files, Hub, model card, importers.

head_map.py holds HeadMap, scores.py its fields and picks. format.py and strict_json.py read files that nobody vouches
for, fields.py says which values are valid, sums.py and merge.py keep sums exact. hub.py reads the Hub, publish.py
writes it, refusals.py says what its answers mean, errors.py holds the errors; info.py describes a map without its
tensors. card.py and picture.py make the model card. importers/ reads the head lists of other projects.
"""

from corehead_hf.head_map.errors import (
    HeadMapAccessError,
    HeadMapConflictError,
    HeadMapConnectionError,
    HeadMapError,
    HeadMapFormatError,
    HeadMapHubError,
    HeadMapNotFoundError,
)
from corehead_hf.head_map.head_map import HeadMap
from corehead_hf.head_map.info import HeadMapInfo, head_map_info
from corehead_hf.head_map.picks import head_count
from corehead_hf.head_map.publish import PublishedMap, PushedMap

__all__ = [
    "HeadMap",
    "HeadMapAccessError",
    "HeadMapConflictError",
    "HeadMapConnectionError",
    "HeadMapError",
    "HeadMapFormatError",
    "HeadMapHubError",
    "HeadMapInfo",
    "HeadMapNotFoundError",
    "PublishedMap",
    "PushedMap",
    "head_count",
    "head_map_info",
]
