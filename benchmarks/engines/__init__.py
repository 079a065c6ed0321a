"""Stock exports in other engines: files that they read, and greedy decoding in each."""
