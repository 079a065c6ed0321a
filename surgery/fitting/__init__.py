"""In come a loaded model and calibration text: files of any size, read as far as is needed.

Out go the fits of blocks: the mean and the least squares of their heads' context vectors.
"""
