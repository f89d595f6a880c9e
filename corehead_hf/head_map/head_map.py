"""HeadMap: the head scores of one checkpoint in a folder, on the Hub, and against a model.

What it holds and how heads are picked is in scores.py, its files are format.py's, every word with the Hub is hub.py's
and publish.py's.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any

from corehead_hf._version import __version__
from corehead_hf.head_map import importers
from corehead_hf.head_map.card import model_card
from corehead_hf.head_map.errors import HeadMapFormatError
from corehead_hf.head_map.fields import model_shape
from corehead_hf.head_map.format import PICTURE_NAME, read_files, write_files
from corehead_hf.head_map.hub import HubOptions, locate, open_map
from corehead_hf.head_map.merge import merged_fields
from corehead_hf.head_map.picture import head_map_png
from corehead_hf.head_map.publish import PublishedMap, PushedMap, PushTarget, find_maps, push_folder
from corehead_hf.head_map.scores import HeadScores
from corehead_hf.head_map.sums import RamSums

logger = logging.getLogger(__name__)

_TENSORS = ("scores", "spread", "count")
OPTIONAL = ("num_skipped", "convergence", "parts", "score_rule")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadMap(HeadScores):
    """RAM of every query head of one checkpoint, averaged over a data set; kept in a folder, shared on the Hub.

    The fields, and what they may hold, are those of HeadScores.
    """

    @property
    def source(self) -> str | None:
        """Where it was read from, "owner/name@commit" or a folder; None for a map made here. Is not saved."""
        return self.__dict__.get("_source")

    @classmethod
    def merge(cls, maps: Sequence[HeadMap]) -> HeadMap:
        """The map of the examples of several maps together; every example counts alike.

        The sums are integers, so the result does not depend on order or grouping, and has the very bits of a map
        measured over all examples in one go in the same batches. `parts` lists what was merged; no convergence is kept.

        Raises:
            ValueError: no maps, one without sums, one given twice, or maps of different models or rules.
        """
        return cls(**merged_fields(maps))

    def save_pretrained(self, directory: str | Path, *, license: str | None = None) -> None:
        """Writes what push_to_hub uploads, the same bytes every time: config, tensors, card, and picture.

        Files of these names in the folder are replaced. The picture is drawn where matplotlib is installed.

        Args:
            license: of the map, as the Hub names it, such as "cc-by-4.0"; None states none.
        """
        tensors = {name: getattr(self, name) for name in _TENSORS} | (self.sums.tensors if self.sums else {})
        picture = head_map_png(self.scores, self.ranking()[:10], self.score_rule is None)
        card = self._card(license, picture is not None)
        write_files(Path(directory), self._provenance(), tensors, card, __version__, picture)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        endpoint: str | None = None,
    ) -> HeadMap:
        """The head map of a local folder or of a Hub repository, neither of which is trusted.

        From the Hub both files are taken at one commit. No code is run and no other model is read. Files that are
        damaged are fetched once more. Without a network, or offline, the cached files serve.

        Args:
            repo_or_folder: an existing folder, which goes first, or the Hub id owner/name.
            revision: branch, tag or commit on the Hub; None is main.
            subfolder: where in the folder or repository the map lies.
            cache_dir, token, force_download, local_files_only, endpoint: as in huggingface_hub.hf_hub_download.

        Raises:
            HeadMapHubError: it cannot be had; NotFound, Access and Connection errors say why.
            HeadMapFormatError: its files are missing, damaged, hostile, or of a format not known here.
            ValueError: revision with a local folder, or force_download with local_files_only.
        """
        options = HubOptions(revision, subfolder, cache_dir, token, force_download, local_files_only, endpoint)
        head_map, source = open_map(locate(repo_or_folder, options), cls._of_folder)
        head_map.__dict__["_source"] = source
        logger.info("read %r from %s", head_map, source)
        return head_map

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        tags: Sequence[str] | None = None,
        endpoint: str | None = None,
        subfolder: str | None = None,
        license: str | None = None,
    ) -> PushedMap:
        """Publish the files of save_pretrained in one commit; the repository is made if it is missing.

        A README.md that is not a head map's card is kept, say a model's in whose repository the map is put. With
        subfolder the four files go there, and a card also to the root if there is none.

        Args:
            repo_id: owner/name, or a name for the logged-in user.
            private: of a new repository; None is the owner's default.
            create_pr: open a pull request instead of writing to main.
            commit_message: None is "Upload head map with corehead_hf".
            revision: the branch to write to, made from main if it is missing.
            token, endpoint: as in huggingface_hub.HfApi.
            subfolder: where in the repository the map goes.
            tags: git tags to put on the commit, such as ["v1"].
            license: see save_pretrained.

        Raises:
            HeadMapHubError: it cannot be published; NotFound, Access, Connection and Conflict errors say why.
            ValueError: create_pr with revision or tags, or a malformed license.
        """
        place = PushTarget(repo_id, private, commit_message, create_pr, revision, token, tags, endpoint, subfolder)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, license=license)
            picture = (Path(folder) / PICTURE_NAME).exists()
            return push_folder(Path(folder), place, self._card(license, picture, subfolder))

    @classmethod
    def find(
        cls,
        base_model: str,
        *,
        token: str | bool | None = None,
        limit: int | None = None,
        endpoint: str | None = None,
    ) -> list[PublishedMap]:
        """The head maps that the Hub lists for a base model, given by its Hub id.

        Raises:
            HeadMapHubError: the Hub gives no list; see its subclasses.
        """
        return find_maps(base_model, token=token, limit=limit, endpoint=endpoint)

    @classmethod
    def from_duo_attention(cls, folder: str | Path, *, model: Any) -> HeadMap:
        """DuoAttention's pattern folder; see importers.duo_attention."""
        return cls(**importers.duo_attention(folder, model))

    @classmethod
    def from_retrieval_head(cls, path: str | Path, *, model: Any) -> HeadMap:
        """Retrieval_Head's JSON of head scores; see importers.retrieval_head."""
        return cls(**importers.retrieval_head(path, model))

    @classmethod
    def from_sparsemm(cls, path: str | Path, *, model: Any) -> HeadMap:
        """SparseMM's JSON of visual head scores; see importers.sparsemm."""
        return cls(**importers.sparsemm(path, model))

    @classmethod
    def from_qrhead(cls, path: str | Path, *, model: Any) -> HeadMap:
        """QRHead's YAML of heads; see importers.qrhead."""
        return cls(**importers.qrhead(path, model))

    def check_fits(self, model: Any) -> None:
        """Refuses a model whose heads are not the ones measured.

        A transformers model of the same shape but another name (a fine-tune, say) passes, with one warning.

        Raises:
            ValueError: model_type, layers, heads, kv heads or head_dim differ; all that differ are listed.
        """
        name = getattr(model.config, "_name_or_path", "")
        differing = [
            f"{field}: map has {getattr(self, field)!r} / model has {found!r}"
            for field, found in model_shape(model.config).items()
            if found != getattr(self, field)
        ]
        if differing:
            raise ValueError(
                f"the head map of {self.base_model_name_or_path!r} was asked to fit the model {name!r} - "
                f"{'; '.join(differing)} - load the map of this checkpoint, or measure one."
            )
        # A local copy is known by its folder's name.
        if PurePath(name).name != PurePath(self.base_model_name_or_path).name:
            _warn_once(
                f"this head map was measured on {self.base_model_name_or_path!r}, the model is {name!r}: "
                f"their shapes agree, but training may have moved the heads"
            )

    @classmethod
    def _of_folder(cls, folder: Path) -> HeadMap:
        values = read_files(folder, PROVENANCE, OPTIONAL)
        if "ram_sum" in values:
            values["sums"] = RamSums(*(values.pop(name) for name in ("ram_sum", "ram_square_sum", "chance_sum")))
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise HeadMapFormatError(f"the head map {str(folder)!r} was asked for - {error}") from error

    def _provenance(self) -> dict[str, Any]:
        optional = [name for name in OPTIONAL if getattr(self, name) is not None]
        return {name: getattr(self, name) for name in (*PROVENANCE, *optional)}

    def _card(self, license: str | None, has_picture: bool, subfolder: str | None = None) -> str:
        numbers = (self.scores, self.spread, self.ranking(), self.chance)
        return model_card(self._provenance(), *numbers, license=license, has_picture=has_picture, subfolder=subfolder)


PROVENANCE = [field.name for field in fields(HeadMap) if field.name not in (*_TENSORS, *OPTIONAL, "sums")]


@functools.lru_cache(maxsize=1024)
def _warn_once(message: str) -> None:
    logger.warning(message)
