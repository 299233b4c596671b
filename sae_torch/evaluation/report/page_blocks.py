"""Feature pages that an evaluation holds itself, in the form of a dashboard."""

from __future__ import annotations

import io

from sae_torch.evaluation.dashboard.blocks import FEATURES_AT_ONCE, FORMAT, BlockFile, BlockWriter
from sae_torch.evaluation.dashboard.dashboard import LABELS, rounded
from sae_torch.evaluation.evaluation import Evaluation


def blocks_of_pages(evaluation: Evaluation) -> BlockFile:
    """The pages of some features: contexts and tokens by the logit lens, without histograms.

    Parameters
    ----------
    evaluation : Evaluation
        With at least one feature page.
    """
    pages = evaluation.features
    contexts = list({(c.before, c.token, c.after): c.document for page in pages for c in page.contexts}.items())
    number = {text: index for index, (text, _) in enumerate(contexts)}
    places = [[number[c.before, c.token, c.after] for c in page.contexts] for page in pages]
    content = io.BytesIO()
    with BlockWriter(content) as writer:
        windows = [list(text) for text, _ in contexts]
        digest = writer.put("text", {"windows": windows, "documents": [[(0, name)] for _, name in contexts]})
        records = (
            {
                "fires": None,
                "histogram": [],
                "quantiles": [],
                "nearest": [(page.nearest, round(page.cosine, 3))],
                "promotes": [(word, None) for word in page.promotes],
                "suppresses": [(word, None) for word in page.suppresses],
                "examples": [[0, place, 1, [1, rounded(c.value)]] for place, c in zip(at, page.contexts, strict=True)],
            }
            for page, at in zip(pages, places, strict=True)
        )
        writer.put_many("features", records, FEATURES_AT_ONCE)
        words = [list(dict.fromkeys(c.token.strip() or c.token for c in page.contexts)) for page in pages]
        labels = {
            "words": [" · ".join(found[:LABELS]) for found in words],
            "logits": ["\n".join([*page.promotes, *page.suppresses]) for page in pages],
            "tops": [[3 * place + 1 for place in at] for at in places],
        }
        writer.put("labels", labels)
        index = {
            "format": FORMAT,
            "text": digest,
            "features": [page.feature for page in pages],
            "n_features": evaluation.n_features,
            "n_tokens": evaluation.n_tokens,
            "shown_tokens": evaluation.n_tokens,
            "length": 3,
            "ranks": [page.rank - 1 for page in pages],
            "counts": [evaluation.counts[page.feature] for page in pages],
            "largest": [rounded(max((c.value for c in page.contexts), default=0.0)) for page in pages],
            "cosines": [round(page.cosine, 3) for page in pages],
        }
        writer.put("index", index)
    return BlockFile(content)
