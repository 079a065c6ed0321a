"""Fits blocks of a loaded model to calibration text."""
