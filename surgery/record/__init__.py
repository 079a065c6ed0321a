"""What was decided and done, in files: plans and manifests.

Checked records come out of foreign JSON, and JSON that reads again out of records.
"""
