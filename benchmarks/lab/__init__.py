"""How the embedded models were made: run its module `train`."""
