"""Every setting of a run, once, with its default; the other configs change a few of them."""

import ml_collections

# What each loss takes besides the embeddings; every key is passed to the function of that name.
LOSSES = {
    "distributed": {
        "error": "l2",  # l2: x², l1: |x|, soft: log(1 + e^−x)
        "over": "negatives",  # negatives, or positives as the paper's released code has it
        "stop_gradient": False,  # treat the target as a constant
        "method": "auto",  # gather (all pairs, in blocks), moments (l2's closed form), auto
    },
    "adaptive": {
        "error": "l2",
        "in_batch": False,  # compare with the negatives of the whole batch
        "broadcast": "triplet",  # triplet, or released: the broadcasting of the paper's code
        "stop_gradient": False,
        "method": "auto",  # of in_batch
    },
    "static": {
        "margin": 0.2,
        "error": "l2",
        "in_batch": False,
        "broadcast": "triplet",
        "method": "auto",
    },
    "softmax": {"temperature": 0.05, "symmetric": False},  # symmetric: positives choose queries too
    "triplet": {"margin": 0.2},
    "pairwise_logistic": {"temperature": 0.05},
    # These two learn from a teacher's scores in the triplet file; scale brings cosines to them.
    "margin_mse": {"scale": 20.0},
    "kl": {"temperature": 1.0, "scale": 20.0},
}


def get_config(loss: str = "distributed") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0  # of the batches' order, of the negatives drawn, of where an adapter begins

    config.data = data = ml_collections.ConfigDict()
    data.dataset = ""  # pydocs or a BEIR folder; "": pydocs, or with triplets their held-out part
    data.triplets = ""  # a JSONL or TSV file to train on instead of the dataset's own pairs
    data.negatives = "random"  # or bm25, mined (by the start encoder); where triplets bring none
    data.negatives_per_query = 1  # the file's own, and drawn ones where it brings fewer
    data.candidates = 20  # draw a bm25 or mined negative from so many best documents
    data.mined_ceiling = 0.95  # pass over what is more similar than so much of the positive; 0: not
    data.query_length = 32  # tokens a query is cut at in training, its prompt among them
    data.document_length = 96  # tokens a document is cut at in training
    data.cache = ""  # folder of tables, tokens, negatives; "": the user's cache folder

    config.encoder = encoder = ml_collections.ConfigDict()
    encoder.init = "sentence-transformers/all-MiniLM-L6-v2"  # folder or hub id to start from
    encoder.pooling = "source"  # source (what the folder says), cls, mean, max, last, pooler
    encoder.max_length = 0  # tokens read of a text after training; 0: as many as the source reads
    encoder.query_prompt = "source"  # put before queries, like "query: "; source: as the folder has
    encoder.document_prompt = "source"  # put before documents
    encoder.backend = "auto"  # plain, cpu (tuned for CPUs), or auto: cpu on CPUs, plain elsewhere
    encoder.dropout = "none"  # in training: none, or source, as its config.json says
    encoder.adapter = "none"  # none: all weights; lora: small matrices beside them
    encoder.adapter_rank = 16  # columns of the one and rows of the other matrix
    encoder.adapter_alpha = 32  # what they add is scaled by alpha / rank
    encoder.adapter_targets = ("query", "value")  # also key, output, inner, outer

    config.loss = ml_collections.ConfigDict({"name": loss, **LOSSES[loss]})

    config.train = train = ml_collections.ConfigDict()
    train.steps = 30  # optimizer updates
    train.batch_size = 64  # triplets of an update, over all devices
    train.fsdp = 1  # devices that share one copy of parameters and moments, to save memory
    train.micro_batches = 1  # parts of a device's rows, encoded one by one to save memory
    train.learning_rate = 5e-5  # the highest one
    train.warmup_steps = 3  # from 0 up to it
    train.decay = "cosine"  # constant, linear or cosine to 0; exponential with decay_rate
    train.decay_rate = 0.99999  # factor a step, of the exponential decay
    train.weight_decay = 0.01  # on matrices only
    train.clip_norm = 1.0  # global norm a gradient is clipped at; 0: never
    train.remat = "products"  # kept for the backward pass: products; inputs: a tenth of the memory
    train.attention = "own"  # own (for packed rows); xla, cudnn: jax.nn.dot_product_attention by it
    train.dtype = "auto"  # of products: float32, bfloat16, or auto: what is faster here
    train.dimensions = ()  # beside whole vectors train their first 256, 128, …; (): whole ones only
    train.target = "model"  # whose documents set the margins: model, detached, ema, start
    train.target_decay = 0.99  # what of the ema stays at each step
    train.collapse_cosine = 0.95  # warn when a batch's documents are as alike as that on average
    train.collapse_stop = False  # end the training there
    train.checkpoint_every = 10  # steps
    train.evaluate_every = 15  # steps, on the dev split
    train.patience = 0  # stop after so many evaluations without a new best; 0: never

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.dev_documents = 1500  # so many at most are searched on dev; 0: all
    evaluation.depth = 100  # documents retrieved for each query
    return config
