"""``python -m sae_torch`` and ``sae-torch``."""

from __future__ import annotations

from typing import NoReturn

from sae_torch.launched import end


def program() -> NoReturn:
    """Run the command line, and end the process as it says."""
    try:
        from sae_torch.cli import main

        code = main()
    except KeyboardInterrupt:  # while the packages were still being imported
        code = 130
    end(code)


if __name__ == "__main__":
    program()
