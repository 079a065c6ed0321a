"""In come files, folders and data sets that hold text or tables, of any size and in any form.

Out go rows of columns, documents and windows of tokens, read piece by piece and as far as needed.
"""
