"""Defines every setting of a run with its default; the other configs change a few of them."""

import ml_collections

# Name of a loss -> options and their defaults, which are passed to its function in
# selfdistill_jax.losses.
LOSSES = {
    "softmax": {
        "temperature": 0.05,  # divides similarities; lower values weight hard negatives more
        "symmetric": False,  # True: also classify the right query of each positive
        "joint": False,  # True: compare queries with queries and positives with documents, too
        "margin": 0.0,  # added to the similarity of every other document
        "document_margin": 0.0,  # λ: adds λ σ(positive, document) to it; may be below 0
        "hardness": 0.0,  # α: another document counts exp(α similarity) times
        "smoothing": 0.0,  # ε: probability shared by documents that are like the positive
        "privileged": 0.0,  # β: weight of the divergence from the positive's own ranking
        "document_temperature": 0.05,  # of smoothing and privileged
        "mask_above": 1.0,  # leave out documents more similar to the positive than this
        "guide": 2.0,  # leave out documents whose similarity exceeds the positive's by more
        "stop_gradient": False,  # True: no gradient through similarities of documents
    },
    "distributed": {
        "error": "l2",  # of x, margin − target: l2 x², l1 |x|, soft log(1 + e^−x), hinge, hinge2
        "over": "negatives",  # documents that set targets: negatives, or positives (paper's code)
        "stop_gradient": False,  # True: no gradient through the target
        "method": "auto",  # gather (all pairs), moments (closed form of l2), auto (the faster one)
    },
    "adaptive": {
        "error": "l2",  # penalty, as for distributed
        "in_batch": False,  # True: compare with the negatives of the whole batch, not only the own
        "broadcast": "triplet",  # in_batch only: triplet, or released (as the paper's code)
        "stop_gradient": False,  # True: no gradient through the target
        "method": "auto",  # in_batch only: gather, moments or auto, as for distributed
    },
    "static": {
        "margin": 0.2,  # the constant that every margin is trained towards
        "error": "l2",  # penalty, as for distributed
        "in_batch": False,  # as for adaptive
        "broadcast": "triplet",  # as for adaptive
        "method": "auto",  # as for adaptive
    },
    "triplet": {"margin": 0.2},  # smallest margin without a loss
    "pairwise_logistic": {"temperature": 0.05},  # divides margins
    # These two learn a teacher's scores, which the triplet file must contain.
    "margin_mse": {"scale": 20.0},  # factor that brings cosines to the range of teacher scores
    "kl": {
        "temperature": 1.0,  # divides the scores of both before their softmax
        "scale": 20.0,  # factor that brings cosines to the range of teacher scores
    },
}


def get_config(loss: str = "softmax") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0  # seeds the order of examples, drawn negatives, dropout and new adapter weights

    config.data = data = ml_collections.ConfigDict()
    data.dataset = ""  # pydocs, BEIR or MS MARCO folder; "": part of data.triplets, else pydocs
    data.triplets = ""  # file, folder or hf://datasets/… of examples; "": the dataset's own pairs
    data.sources = ()  # several files in place of triplets: ("faq.jsonl weight=2", "web.parquet")
    data.mix = "examples"  # of sources: mix examples within a batch, or batches of one file each
    data.columns = ""  # of data.triplets, as "query=question,positive=answer"; "": found by name
    data.positive_from = 0.5  # pairs with a label or score are positive if it is at least this
    data.first_examples = 0  # n: the first n examples of each query that has as many; 0: all
    data.dev_queries = 300  # without a dev split: hold out up to this many training queries
    data.negatives = "random"  # source of missing negatives: random, bm25, mined (by start model)
    data.negatives_per_query = 1  # per query and step: the data's own first, then drawn ones
    data.candidates = 20  # bm25 and mined negatives are drawn from this many top-ranked documents
    data.mined_ceiling = 0.95  # skip mined ones more similar than this × the positive; 0: skip none
    data.query_length = 32  # tokens that queries are truncated to in training, prompt included
    data.document_length = 96  # tokens that documents are truncated to in training, prompt included
    data.cache = ""  # folder for reusable tables, tokens, negatives; "": user's cache folder

    config.encoder = encoder = ml_collections.ConfigDict()
    encoder.init = "sentence-transformers/all-MiniLM-L6-v2"  # start model: folder or hub id
    encoder.pooling = "source"  # cls, mean, max, last, pooler, or source: as the start model
    encoder.max_length = 0  # tokens per text of the trained model; 0: as the start model
    encoder.query_prompt = "source"  # put before queries, as "query: "; source: as the start model
    encoder.document_prompt = "source"  # put before documents; source: as the start model
    encoder.backend = "auto"  # plain, cpu (tuned for CPUs), auto (cpu on CPUs, plain elsewhere)
    encoder.dropout = "none"  # in training: none, or source (rates of the start model's config)
    encoder.adapter = "none"  # none: train all weights; lora: small added matrices; head: one layer
    encoder.adapter_rank = 16  # LoRA rank: columns of the one and rows of the other added matrix
    encoder.adapter_alpha = 32  # LoRA strength: the matrices' product is scaled by alpha / rank
    encoder.adapter_targets = ("query", "value")  # adapted layers; also key, output, inner, outer

    config.loss = ml_collections.ConfigDict({"name": loss, **LOSSES[loss]})

    config.train = train = ml_collections.ConfigDict()
    train.steps = 30  # number of optimizer updates
    train.batch_size = 64  # triplets per update, over all devices together
    train.fsdp = 1  # devices that share one copy of parameters and Adam moments, to save memory
    train.micro_batches = 1  # parts of a device's batch, encoded one after another to save memory
    train.learning_rate = 5e-5  # highest learning rate, reached after warm-up
    train.warmup_steps = 3  # steps of linear rise, from learning_rate / warmup_steps
    train.decay = "cosine"  # after warm-up: constant, linear or cosine to 0, or exponential
    train.decay_rate = 0.99999  # exponential decay: factor of the learning rate per step
    train.weight_decay = 0.01  # AdamW's pull of weights towards 0; on matrices only
    train.clip_norm = 1.0  # larger gradients are scaled down to this global norm; 0: never
    train.remat = "products"  # saved for backward pass: products, or inputs (a tenth of the memory)
    train.attention = "auto"  # auto (pallas on TPUs, else own), own, pallas, xla, cudnn
    train.dtype = "auto"  # of matrix products: float32, bfloat16, or auto (the faster one here)
    train.dimensions = ()  # also train vectors cut to these sizes, as (256, 128); (): whole only
    train.side = "both"  # both, or query: documents keep the start model's vectors, encoded once
    train.target = "model"  # encoder behind the targets: model, detached (no gradient), ema, start
    train.target_decay = 0.99  # target "ema": share of the moving average kept at each step
    train.collapse_cosine = 0.95  # warn of collapse if a batch's documents' mean cosine exceeds it
    train.collapse_stop = False  # True: end the training at that warning
    train.tracker = "tensorboard"  # receives the numbers of the log: tensorboard, wandb, none
    train.checkpoint_every = 10  # steps between checkpoints
    train.evaluate_every = 15  # steps between evaluations on the dev split
    train.patience = 0  # stop after this many evaluations without a new best; 0: never

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.dev_documents = 1500  # search at most this many documents on dev; 0: all
    evaluation.depth = 100  # documents retrieved per query
    evaluation.interpolation = (0.5, 1.0)  # α of the final choice: start + α (trained − start)
    evaluation.split = "test"  # evaluated at the end: test (dev if there is no test), dev, none
    evaluation.retention = "pydocs"  # other collections, "pydocs,FOLDER", to see forgetting
    evaluation.retention_documents = 1500  # search at most this many documents of each; 0: all
    return config
