"""Opens the collection that a run's two settings name."""

from selfdistill_jax.data.collection import Source
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.data.sources.external_triplets import TripletsOf, TripletsOver
from selfdistill_jax.data.sources.pydocs import PyDocs
from selfdistill_jax.data.sources.triplet_file import TripletFile
from selfdistill_jax.data.sources.triplet_rows import IDS, check_file, has_ids
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.io import expand

EMBEDDED = {"pydocs": PyDocs}


def open_source(*, dataset: str = "", triplets: str = "") -> Source:
    """Returns what is trained on and evaluated on.

    Args:
      dataset: an embedded collection's name or a BEIR folder; empty means pydocs, or with
        ``triplets`` the held-out part of that file.
      triplets: a file to train on instead of the dataset's own pairs: of texts, or of ids of the
        dataset's.

    Raises:
      InputError: nothing by that name, or ids without the dataset that they are of.

    Example:
      >>> open_source().name
      'pydocs'
    """
    of_ids = bool(triplets) and has_ids(check_file(triplets))
    if of_ids and not dataset:
        raise InputError(
            f"{triplets}: has ids ({', '.join(IDS)}), and no dataset is given that they are of"
        )
    if triplets and not dataset:
        return TripletFile(triplets)
    collection = _open(dataset or "pydocs")
    if not triplets:
        return collection
    if of_ids:
        return TripletsOf(collection, triplets)
    return TripletsOver(collection, TripletFile(triplets, held_out=False))


def _open(dataset: str) -> Source:
    if dataset in EMBEDDED:
        return EMBEDDED[dataset]()
    path = expand(dataset)
    if not path.exists():
        raise InputError(
            f"dataset {dataset!r}: no folder and no embedded collection; expected the path of a "
            f"BEIR folder or one of: {', '.join(EMBEDDED)}{nearest(dataset, EMBEDDED)}"
        )
    if path.is_file():
        raise InputError(
            f"dataset {dataset!r}: is a file; expected a BEIR folder (a file of triplets is given "
            "as triplets, not as dataset)"
        )
    return BeirFolder(path)
