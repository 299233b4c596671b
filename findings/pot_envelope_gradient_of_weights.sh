#!/usr/bin/env bash
# POT 0.9.7.post1: with grad="envelope" ot.solve gives the weights the gradient of another objective than its value.
#
# Expected: grad="envelope" "computes the gradients only for the value", so the documentation, to save memory; the gradient
# of the value is the same as by "autodiff". Seen, with reg and the default reg_type="KL": the value is linear cost plus
# KL(plan | a b^T), the gradient of the weights a and b is that of the objective with reg_type="entropy". They differ by
# reg * log(a), so learnt weights are drawn to other ones: at weights 0.1 to 0.4 the gradient is off by 40 % of its size with
# reg = 0.1, by four times its size with reg = 1, and has other signs. Finite differences of the value agree with "autodiff".
# Nothing is said. The gradient of the costs is right; so is that of the weights with reg_type="entropy", and at uniform
# weights.
# Source: run as below with pot 0.9.7.post1, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet pot==0.9.7.post1 torch==2.13.0 numpy==2.4.6 scipy==1.17.1
"$work/env/bin/python" -W ignore - <<'PYTHON'
import ot
import torch

N, STEP = 4, 1e-5
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
costs = torch.rand(N, 5)
b = torch.full((5,), 0.2)


def value(weights, **options):
    return ot.solve(costs, weights, b, max_iter=100000, tol=1e-13, **options).value


def differences(weights, **options):
    """The gradient of the value within the simplex, by central differences."""
    moves = torch.eye(N) - 1 / N
    ends = [[float(value(weights + sign * STEP * move, **options)) for sign in (1, -1)] for move in moves]
    return torch.tensor([(up - down) / (2 * STEP) for up, down in ends])


for weights in (torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.full((N,), 1 / N)):
    for reg_type in ("KL", "entropy"):
        for reg in (0.1, 1.0):
            true, found = differences(weights, reg=reg, reg_type=reg_type), {}
            for grad in ("autodiff", "envelope"):
                a, m = weights.clone().requires_grad_(), costs.clone().requires_grad_()
                result = ot.solve(m, a, b, reg=reg, reg_type=reg_type, grad=grad, max_iter=100000, tol=1e-13)
                result.value.backward()
                found[grad] = a.grad - a.grad.mean()  # within the simplex
                assert torch.allclose(m.grad, result.plan.detach(), atol=1e-8), "changed: the gradient of the costs"
            error = float((found["envelope"] - true).norm() / true.norm())
            print(f"weights {weights.tolist()}, {reg_type}, reg {reg}: envelope off by {error:.1%}")
            print("   ", *(f"{name} {[round(float(g), 4) for g in x]}" for name, x in (("true", true), *found.items())))
            assert torch.allclose(found["autodiff"], true, atol=1e-6), "changed: autodiff"
            if reg_type == "KL" and weights[0] != weights[1]:
                assert error > 0.3, "changed: the envelope gradient"
                shift = reg * weights.log()
                assert torch.allclose(found["envelope"] - shift + shift.mean(), true, atol=1e-6), "changed: what it is off by"
            else:
                assert error < 1e-5, "changed: the envelope gradient where it was right"
            if reg == 1.0 and weights[0] != weights[1] and reg_type == "KL":
                assert (found["envelope"] * true < 0).any(), "changed: the signs"
PYTHON
