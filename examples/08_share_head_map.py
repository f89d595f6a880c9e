"""Share a head map: look at what would be published, then, with --push, publish it and read it back.

python examples/08_share_head_map.py [--map hub_artifacts/glyphs-qwen3-vl-head-map] [--push you/my-head-map --tag v1]
"""

import argparse
import tempfile
from pathlib import Path

from corehead_hf import HeadMap

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--map", default="hub_artifacts/glyphs-qwen3-vl-head-map", help="folder of the map")
parser.add_argument("--license", default="cc-by-4.0", help="of the map, as the Hub names it")
parser.add_argument("--push", metavar="OWNER/NAME", help="publish it there; needs `hf auth login`")
parser.add_argument("--tag", default="v1")
arguments = parser.parse_args()

head_map = HeadMap.from_pretrained(arguments.map)
with tempfile.TemporaryDirectory() as folder:
    head_map.save_pretrained(folder, license=arguments.license)  # exactly what push_to_hub uploads
    for file in sorted(Path(folder).iterdir()):
        print(f"{file.name:<24}{file.stat().st_size:>8} bytes")
    print("\n" + Path(folder, "README.md").read_text(encoding="utf-8").split("## How it was made")[0].strip())

if arguments.push:
    pushed = head_map.push_to_hub(arguments.push, license=arguments.license, tags=[arguments.tag])
    again = HeadMap.from_pretrained(arguments.push, revision=arguments.tag)
    assert again.scores.equal(head_map.scores)
    print(f"\npublished as {pushed.url}, read back as {again.source}")
