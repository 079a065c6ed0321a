"""One pass of lm-eval over passages: which of them a model recites."""
