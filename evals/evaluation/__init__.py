"""The whole evaluation: from two models and a plan to a checked report and its pages."""
