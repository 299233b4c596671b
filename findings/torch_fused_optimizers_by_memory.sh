#!/usr/bin/env bash
# torch 2.13.0, CPU: with fused=True optimisers give each weight the gradient that lies at its place in memory, not its own.
#
# `fused` is documented as another implementation, for speed. Expected: the same step whatever the strides of parameter,
# gradient and state, as foreach=True and the plain loop give, or a refusal. Seen: Adam, AdamW, SGD and Adagrad read all of
# them as one run of numbers. A gradient that was set as a transpose (that of a tied decoder, say), or as columns cut from a
# joint one, is then that of other weights; SGD takes numbers of the columns that were cut away. So is a plain gradient
# of a parameter that was made as a transpose, and so are moments that were stored row by row and given back to it.
# Nothing is said. What backward() puts into .grad has the parameter's strides and is right; .contiguous() mends the rest.
# Source: run as below with torch 2.13.0 on the CPU; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
export OMP_NUM_THREADS=1
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch

torch.manual_seed(0)
start, slope, joint = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 8)
STEPS = 3


def transposed(x):
    """The same numbers, column by column in memory."""
    return x.T.contiguous().T


CASES = {  # the parameter, its gradient, whether fused is right
    "both row by row": (start, slope, True),
    "both column by column": (transposed(start), transposed(slope), True),
    "a gradient set as a transpose": (start, transposed(slope), False),
    "a gradient cut from a joint one": (start, joint[:, :4], False),
    "a parameter made as a transpose": (transposed(start), slope, False),
}
OPTIMIZERS = {
    "Adam": lambda weights, **how: torch.optim.Adam(weights, lr=0.01, **how),
    "AdamW": lambda weights, **how: torch.optim.AdamW(weights, lr=0.01, **how),
    "SGD": lambda weights, **how: torch.optim.SGD(weights, lr=0.1, **how),
    "Adagrad": lambda weights, **how: torch.optim.Adagrad(weights, lr=0.1, **how),
}


def trained(make, begin, gradient, **how):
    weight = torch.nn.Parameter(begin.clone())  # clone keeps the strides
    optimizer = make([weight], **how)
    for _ in range(STEPS):
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


for name, make in OPTIMIZERS.items():
    for case, (begin, gradient, right) in CASES.items():
        loop = trained(make, begin, gradient, foreach=False, fused=False)
        foreach = trained(make, begin, gradient, foreach=True)
        fused = trained(make, begin, gradient, fused=True)
        share = ((fused - loop).abs() > 1e-5).double().mean().item()
        print(f"{name}, {case}: {share:.0%} of the weights differ when fused")
        assert torch.allclose(foreach, loop, atol=1e-6), f"changed: {name}, foreach"
        assert (share == 0) == right, f"changed: {name}, {case}"
        mended = trained(make, begin.contiguous(), gradient.contiguous(), fused=True)
        assert torch.allclose(mended, loop, atol=1e-6), f"changed: {name}, {case}, made contiguous"

# whose gradient was it?
column = torch.arange(24.0).view(6, 4)
weight = torch.nn.Parameter(torch.zeros(6, 4))
optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
weight.grad = transposed(column)
optimizer.step()
assert torch.equal(-weight.detach().flatten(), column.T.flatten()), "changed: which gradient a weight gets"
print("SGD, a gradient of 0 to 23 set as a transpose: the first row moves by", (-weight.detach()[0]).tolist())

# moments of a transposed parameter, stored row by row
weight = torch.nn.Parameter(transposed(start))
weight.grad = transposed(slope)
outcomes = []
for contiguous in (False, True):
    weights = [torch.nn.Parameter(weight.detach().clone())]
    optimizer = torch.optim.Adam(weights, lr=0.01, fused=True)
    weights[0].grad = transposed(slope)
    optimizer.step()
    state = optimizer.state_dict()
    if contiguous:
        state["state"][0] = {name: value.contiguous() for name, value in state["state"][0].items()}
    optimizer.load_state_dict(state)
    weights[0].grad = transposed(-slope / 2)
    optimizer.step()
    outcomes.append(weights[0].detach())
print("Adam, moments given back row by row: the next step differs by", (outcomes[0] - outcomes[1]).abs().max().item())
assert not torch.allclose(*outcomes, atol=1e-4), "changed: moments with other strides"
PYTHON
