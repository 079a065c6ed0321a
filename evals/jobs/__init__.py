"""What each command runs, from its request to a folder that is written whole or not at all."""
