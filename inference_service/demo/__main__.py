"""``python -m inference_service.demo``."""

from __future__ import annotations

import sys

from inference_service.demo.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
