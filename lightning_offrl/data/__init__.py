"""From files and arrays to `Episodes`, and from these to batches.

Nothing is imported here, so that asking for one module does not load the others: see `lightning_offrl.data.readers`,
`lightning_offrl.data.episodes` and `lightning_offrl.data.datamodule`.
"""
