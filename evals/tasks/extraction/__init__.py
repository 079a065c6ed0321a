"""An lm-eval task: which passages a model recites."""
