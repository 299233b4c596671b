"""``python -m sae_torch``."""

from __future__ import annotations

from sae_torch.launched import end

try:
    from sae_torch.cli import main

    code = main()
except KeyboardInterrupt:  # while the packages were still being imported
    code = 130
end(code)
