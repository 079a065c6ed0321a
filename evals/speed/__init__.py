"""Speed and memory.

Two models come in; turns of each, timed in processes of their own, come out.
"""
