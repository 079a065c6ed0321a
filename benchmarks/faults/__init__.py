"""Faults on purpose: commands killed, disks filled, permissions and sources taken away midway."""
