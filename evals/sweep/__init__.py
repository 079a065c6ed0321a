"""Many edits of one model, measured together.

Edits, passages and held-out windows come in; what each edit leaves recited and costs comes out, as
records, table and pictures.
"""
