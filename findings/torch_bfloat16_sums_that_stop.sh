#!/usr/bin/env bash
# torch 2.13.0, CPU: some bfloat16 sums over matches are rounded after every term, so that 1000 ones make 256.
#
# Expected: sums of products are kept in float32 and rounded once, as the dense product, F.embedding_bag, index_add_,
# scatter_add_ and sum do: 1000. Seen: torch.sparse.mm with a COO tensor, coalesce, to_dense and segment_reduce stop at
# 256, and so does the gradient of a decoder row that was used through F.embedding_bag, F.embedding, indexing or
# sparse.mm, while the bias' gradient is right. A reconstruction from 64 matches by sparse.mm is off several times as
# far as the dense one; a decoder row used by thousands of tokens gets a fraction of its gradient. Nothing is said.
# Source: run as below with torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
import torch.nn.functional as F

N = 1000
half = torch.bfloat16
ones, first, rows = torch.ones(N, dtype=half), torch.zeros(N, dtype=torch.long), torch.ones(N, 2, dtype=half)
line = torch.stack([first, torch.arange(N)])
coo = torch.sparse_coo_tensor(line, ones, (1, N))
same_place = torch.sparse_coo_tensor(torch.stack([first, first]), ones, (1, 1))


def gradient(use):
    """What the row of a decoder with one feature gets from N uses, each with gradient 1."""
    decoder = torch.zeros(1, 2, dtype=half, requires_grad=True)
    use(decoder).sum().backward()
    return decoder.grad


kept = {
    "dense product": ones[None] @ rows,
    "sum": rows.sum(0),
    "F.embedding_bag": F.embedding_bag(torch.arange(N)[None], rows, mode="sum", per_sample_weights=ones[None]),
    "index_add_": torch.zeros(1, 2, dtype=half).index_add_(0, first, rows),
    "scatter_add_": torch.zeros(1, 2, dtype=half).scatter_add_(0, first[:, None].expand(N, 2), rows),
    "gradient of a bias": gradient(lambda decoder: rows + decoder),
    "gradient of a dense product": gradient(lambda decoder: ones[:, None] @ decoder),
}
stopped = {
    "sparse.mm": torch.sparse.mm(coo, rows),
    "coalesce": same_place.coalesce().values(),
    "to_dense": same_place.to_dense(),
    "segment_reduce": torch.segment_reduce(rows, "sum", lengths=torch.tensor([N])),
    "gradient of F.embedding_bag": gradient(
        lambda decoder: F.embedding_bag(first[:, None], decoder, mode="sum", per_sample_weights=ones[:, None])
    ),
    "gradient of F.embedding": gradient(lambda decoder: F.embedding(first, decoder)),
    "gradient of indexing": gradient(lambda decoder: decoder[first]),
    "gradient of sparse.mm": gradient(
        lambda decoder: torch.sparse.mm(torch.sparse_coo_tensor(line.flip(0), ones, (N, 1)), decoder)
    ),
}
for expected, sums in ((1000.0, kept), (256.0, stopped)):
    for name, found in sums.items():
        print(f"{name}: {found.flatten()[0].item():g}")
        assert (found == expected).all(), f"changed: {name}"

draw = torch.Generator().manual_seed(0)
decoder = torch.randn(4096, 256, generator=draw).to(half)
features = torch.rand(32, 4096, generator=draw).topk(64).indices
values = torch.rand(32, 64, generator=draw).to(half)
acts = torch.zeros(32, 4096, dtype=half).scatter_(1, features, values)
exact = acts.double() @ decoder.double()
dense = float((acts @ decoder - exact).norm() / exact.norm())
sparse = float((torch.sparse.mm(acts.to_sparse(), decoder) - exact).norm() / exact.norm())
print(f"reconstruction of 64 matches, relative error: dense {dense:.4f}, sparse.mm {sparse:.4f}")
assert sparse > 2 * dense, "changed: sparse.mm is as near as the dense product"
PYTHON
