"""`BiEncoder`: a loaded model that turns texts into unit vectors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from selfdistill_jax.checkpoints.adapter_folder import read_settings
from selfdistill_jax.checkpoints.model_folder import (
    Pretrained,
    document_encoder,
    fingerprint,
    read_folder,
    write_folder,
)
from selfdistill_jax.checkpoints.peft import with_adapter, with_settings
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import make_encode
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.progress import Progress
from selfdistill_jax.retrieval.encode_corpus import (
    encode_tokens,
    local_mesh,
    on_mesh,
    open_tokenizer,
)
from selfdistill_jax.retrieval.quantize import check_dimensions, truncate
from selfdistill_jax.retrieval.search import BLOCK

if TYPE_CHECKING:
    from selfdistill_jax.fit import Fitted


class BiEncoder:
    """Encodes queries and documents into unit vectors.

    One encoder usually encodes both. A model whose query encoder alone was trained
    (``config.train.side``) has a separate document encoder, see `of`.

    Example (needs the weights):
        model = BiEncoder.load("sentence-transformers/all-MiniLM-L6-v2")
        vectors = model.encode(["how do I list open ports"])  # float32 [1, 384], unit length
        model.save("my-model")  # a sentence-transformers folder
    """

    def __init__(
        self,
        encoder: Pretrained,
        *,
        dtype: jnp.dtype = jnp.float32,
        documents: "BiEncoder | None" = None,
    ):
        self.encoder = encoder
        self._documents = documents
        self._loaded_from: tuple[str, str] | None = None  # for `fit`: folder or hub id, and pooling
        self.tokenizer = open_tokenizer(encoder)
        function = make_encode(
            encoder.config, pooling=encoder.pooling, dense=encoder.dense, dtype=dtype
        )
        self._mesh = local_mesh()
        self._encode = on_mesh(function, self._mesh)
        self._params = jax.device_put(encoder.params, jax.NamedSharding(self._mesh, jax.P()))

    @classmethod
    def load(cls, name: str, *, pooling: str = "source", adapter: str | Path = "") -> "BiEncoder":
        """Loads a model from a folder or the Hugging Face hub.

        Args:
          name: model folder or hub id.
          pooling: see `read_folder`; "source" takes the pooling that the adapter was trained
            with, if its folder names one.
          adapter: folder of a LoRA adapter in PEFT's format; it is added to the weights.

        Raises:
          InputError: the model or the adapter does not exist, is damaged, or has an unsupported
            architecture or kind; or an adapter is given for a model that encodes only queries.
        """
        settings = read_settings(Path(adapter)) if adapter else {}
        if pooling == "source":
            pooling = settings.get("pooling", pooling)
        encoder, documents = read_folder(name, pooling=pooling), None
        if folder := document_encoder(encoder):
            if adapter:
                raise InputError(
                    f"{name}: this model encodes only queries, so an adapter for both sides cannot "
                    "be added; give the adapter's own base model"
                )
            documents = cls(read_folder(str(folder), pooling=pooling))
        elif settings.get("side") == "query":
            documents = cls(with_settings(encoder, Path(adapter)))
        if adapter:
            encoder = with_adapter(encoder, Path(adapter))
        model = cls(encoder, documents=documents)
        if not adapter and documents is None:
            model._loaded_from = name, pooling
        return model

    def of(self, kind: str) -> "BiEncoder":
        """Returns the model that encodes a kind of texts: "query", "document", or others ("")."""
        return self._documents or self if kind == "document" else self

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that determines a text's vector, except the prompt."""
        documents = [self._documents.fingerprint] if self._documents else []
        return fingerprint(self.encoder, self.tokenizer.fingerprint, *documents)

    def encode(
        self,
        texts: Sequence[str] | str,
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        progress: str | Progress = "",
    ) -> np.ndarray:
        """Encodes texts, each truncated to the model's maximum length (``max_length``).

        Args:
          texts: any number of texts; a single string gives a single vector, ``[D]``.
          prompt: text put before each; None means the model's default prompt, usually empty.
          dimensions: number of leading dimensions to keep, rescaled to unit length; None keeps
            all.
          progress: progress bar to advance, or the label of a new one; empty shows no bar.

        Returns:
          ``[n, D]`` float32 unit vectors in the order of the texts.

        Raises:
          InputError: `dimensions` is more than the encoder has, or a vector is not finite.
        """
        if isinstance(texts, str):
            options = {"prompt": prompt, "dimensions": dimensions, "progress": progress}
            return self.encode([texts], **options)[0]
        if prompt is None:
            prompt = self.encoder.prompts.of("")
        tokens = self.tokenize(texts, prompt=prompt)
        return self.encode_tokens(tokens, dimensions=dimensions, progress=progress)

    def encode_query(self, texts: Sequence[str] | str, **options: Any) -> np.ndarray:
        """Encodes queries as `encode` does, with the model's prompt for queries, if it has one."""
        return self.encode(texts, prompt=self.encoder.prompts.of("query"), **options)

    def encode_document(self, texts: Sequence[str] | str, **options: Any) -> np.ndarray:
        """Encodes documents as `encode` does, with the model's prompt for them, if it has one."""
        model = self.of("document")
        return model.encode(texts, prompt=model.encoder.prompts.of("document"), **options)

    def document_blocks(self, texts: Iterable[str], **options: Any) -> Iterator[np.ndarray]:
        """Encodes documents part by part, for `search_blocks`: no memory for all is needed.

        Args:
          texts: the documents.
          options: as for `encode`, except ``prompt``.

        Yields:
          ``[n, D]`` float32 unit vectors of the next documents.

        Raises:
          InputError: as for `encode`.
        """
        texts = iter(texts)
        while part := list(islice(texts, BLOCK)):
            yield self.encode_document(part, **options)

    def tokenize(self, texts: Iterable[str], *, prompt: str = "") -> TokenTable:
        """Tokenizes prompt + text, truncated to the model's maximum length, for `encode_tokens`."""
        limit = self.encoder.max_length
        return TokenTable.from_texts(self.tokenizer, texts, limit=limit, prompt=prompt)

    def encode_tokens(
        self,
        tokens: TokenTable,
        *,
        dimensions: int | None = None,
        progress: str | Progress = "",
    ) -> np.ndarray:
        """Encodes a token table as `encode` encodes texts.

        Raises:
          InputError: `dimensions` is more than the encoder has, or a vector is not finite.
        """
        check_dimensions(dimensions, self.encoder.dimensions)
        vectors = encode_tokens(
            self._encode,
            self._params,
            tokens,
            limit=self.encoder.max_length,
            dimensions=self.encoder.dimensions,
            mesh=self._mesh,
            progress=progress,
        )
        wrong = int((~np.isfinite(vectors)).any(1).sum())
        if wrong:
            raise InputError(
                f"{self.encoder.folder}: {wrong:,} of {len(vectors):,} vectors are not finite (NaN "
                "or infinity): the model's layers overflow on these texts; use another model, or "
                "leave these texts out"
            )
        return truncate(vectors, dimensions)

    def fit(
        self,
        examples: Iterable[Any] | str | Path,
        *,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "Fitted":
        """Trains an encoder that starts as this one; this one does not change.

        See `selfdistill_jax.fit.fit` for the options and errors.

        Args:
          examples: tuples ``(query, positive)`` or ``(query, positive, negative, …)``, dicts, or
            the path of a file.
          settings: settings of the run, such as ``{"train.learning_rate": 1e-4}``.
          options: ``loss``, ``epochs`` and ``workdir``.

        Returns:
          The trained model and its evaluation; printed, it is the table of the training command.

        Raises:
          InputError: as for `selfdistill_jax.fit.fit`; or the model does not come from a folder.

        Example (needs the weights):
            fitted = model.fit([("list open ports", "ss -tulpn"), …], epochs=3)
            print(fitted)
            fitted.model.save("my-model")
        """
        from selfdistill_jax.fit import fit  # imports this module, and all that trains

        if self._documents:
            raise InputError(
                f"{self.encoder.folder}: this model has separate encoders for queries and "
                "documents; fit trains models with one encoder; take the one this was trained from"
            )
        if not self._loaded_from:
            raise InputError(
                f"{self.encoder.folder}: fit trains a model as it is in its folder, without an "
                "adapter; save this model, and load it from there"
            )
        name, pooling = self._loaded_from
        given = {"encoder.pooling": pooling, **(settings or {})}
        return fit(name, examples, settings=given, **options)

    def save(self, path: str | Path, *, card: str = "") -> None:
        """Writes a model folder that sentence-transformers and ``AutoModel`` can open.

        Raises:
          InputError: the path exists and is neither an empty folder nor a model folder (an
            existing model is replaced).
        """
        path = expand(path).resolve()
        empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if not empty and not (path / "modules.json").is_file():
            raise InputError(
                f"{path}: exists and is not a model folder; give a new path, or the folder of a "
                "model to replace"
            )
        write_folder(
            path,
            self.encoder,
            card=card or "# A bi-encoder of selfdistill_jax\n",
            documents=self._documents.encoder if self._documents else None,
        )
