"""Faults on purpose: commands killed, disks filled, sources taken away midway."""
