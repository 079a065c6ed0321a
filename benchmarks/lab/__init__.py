"""How the embedded models were made, and are measured: its modules `train` and `evaluate`."""
