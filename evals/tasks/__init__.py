"""Task files for lm-evaluation-harness, for use with or without attn-surgery's own commands.

lm_eval --include_path "$(attn-surgery tasks)" --tasks discoverable_extraction …
"""

from __future__ import annotations

from pathlib import Path

INCLUDE_PATH = Path(__file__).parent
"""What `lm_eval --include_path` takes."""
