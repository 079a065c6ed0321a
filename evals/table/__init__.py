"""Figures as rows of one table: how they are made, decided, and said."""
