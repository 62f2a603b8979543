"""Opens the collection given by the settings ``dataset`` and ``triplets``."""

from collections.abc import Sequence

from selfdistill_jax.data.collection import Source
from selfdistill_jax.data.examples.columns import IDS
from selfdistill_jax.data.examples.file import ExampleFile
from selfdistill_jax.data.examples.mixed import MixedFiles, SourceFile
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.data.sources.external_triplets import TripletsOf, TripletsOver
from selfdistill_jax.data.sources.first_examples import FirstExamples
from selfdistill_jax.data.sources.held_out import HeldOutDev
from selfdistill_jax.data.sources.msmarco import MsMarcoFolder, how_to_get, is_msmarco
from selfdistill_jax.data.sources.pydocs import PyDocs
from selfdistill_jax.data.sources.triplet_file import TripletFile
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.io import expand

EMBEDDED = {"pydocs": PyDocs}


def open_source(
    *,
    dataset: str = "",
    triplets: str = "",
    dev_queries: int = 0,
    columns: str = "",
    positive_from: float = 0.5,
    first_examples: int = 0,
    sources: Sequence[SourceFile] = (),
) -> Source:
    """Returns the collection to train and evaluate on.

    Args:
      dataset: name of an embedded collection, or path of a BEIR folder or of a folder of MS MARCO's
        files. If empty, pydocs is used, or with a ``triplets`` file of texts the held-out part of
        that file.
      triplets: file or folder to train on instead of the dataset's own pairs, with texts or with
        ids of the dataset's queries and documents.
      dev_queries: number of training queries of a BEIR folder without a dev split that are held out
        as one, see `HeldOutDev`; 0 holds out none.
      columns, positive_from: how to read ``triplets``, see `ExampleFile`.
      sources: several files in place of ``triplets``.
      first_examples: number of training examples of each query, see `FirstExamples`; 0 for all.

    Raises:
      InputError: the dataset or file does not exist, the file has ids and no dataset is given, or
        there are both ``triplets`` and ``sources``.

    Example:
      >>> open_source().name
      'pydocs'
    """
    collection = _open(dataset) if dataset else None
    file: ExampleFile | MixedFiles | None = None
    if triplets and sources:
        raise InputError(
            "both config.data.triplets and config.data.sources are given; put all files in "
            "config.data.sources"
        )
    if columns and sources:
        raise InputError(
            "config.data.columns has no effect on config.data.sources; write columns=… after each "
            "file there"
        )
    if triplets:
        file = ExampleFile(triplets, columns=columns, positive_from=positive_from)
    if sources:
        file = MixedFiles(sources, positive_from=positive_from)
    source = _with_examples(collection, file, dev_queries)
    return FirstExamples(source, first_examples) if first_examples else source


def _with_examples(
    collection: Source | None, file: ExampleFile | MixedFiles | None, dev_queries: int
) -> Source:
    of_ids = file is not None and file.has_ids
    if file is not None and of_ids and collection is None:
        raise InputError(
            f"{file.path}: has ids ({', '.join(IDS)}), but no dataset is given; give the dataset "
            "with these queries and documents"
        )
    if file and collection is None:
        return TripletFile(file)
    collection = collection or _open("pydocs")
    if file and not of_ids:
        return TripletsOver(collection, TripletFile(file, held_out=False))
    source = TripletsOf(collection, file) if file else collection
    splits = collection.splits
    if dev_queries and "dev" not in splits and (file or "train" in splits):
        return HeldOutDev(source, dev_queries)
    return source


def _open(dataset: str) -> Source:
    if dataset in EMBEDDED:
        return EMBEDDED[dataset]()
    path = expand(dataset)
    if not path.exists():
        if path.name.lower().startswith("msmarco"):
            raise InputError(f"{path}: no such folder; for MS MARCO, {how_to_get()}")
        raise InputError(
            f"dataset {dataset!r}: neither a folder nor an embedded collection; expected the path "
            "of a BEIR folder or a folder of MS MARCO's files, or one of: "
            f"{', '.join(EMBEDDED)}{nearest(dataset, EMBEDDED)}"
        )
    if path.is_file():
        raise InputError(
            f"dataset {dataset!r}: is a file; expected a BEIR folder (give a file of triplets as "
            "triplets, not as dataset)"
        )
    if is_msmarco(path):
        return MsMarcoFolder(path)
    return BeirFolder(path)
