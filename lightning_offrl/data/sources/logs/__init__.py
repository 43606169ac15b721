"""Logs as people have them, Parquet or CSV: a YAML map says which column is what, and rows become episodes.

    mapping     the map, checked before any log is opened; `EXAMPLE` shows every setting
    units       conversions
    files       pieces of a file
    values      cells to numbers
    tables      rows as numbers; means, categories and bounds of the whole log
    order       rows brought in order on disk
    assemble    rows to episodes
    tally       what happened on the way, in sentences

Nothing holds a whole log: memory is one piece of 65,536 rows, the longest episode, and 8 bytes for each episode.
`lightning_offrl.data.import_logs` writes what comes out as a Minari dataset.
"""

from lightning_offrl.data.sources.logs.mapping import EXAMPLE, LogMap, parse_map, read_map

__all__ = ["EXAMPLE", "LogMap", "parse_map", "read_map"]
