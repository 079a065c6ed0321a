"""Task files for lm-evaluation-harness, for use with or without attn-surgery's own commands.

lm_eval --include_path "$(python -m evals.tasks)" --tasks discoverable_extraction …
"""
