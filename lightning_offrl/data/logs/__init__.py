"""Logs as people have them, Parquet or CSV: a YAML map says which column is what, and rows become episodes.

How to go about it:

1. ``offrl data import --example > map.yaml`` prints a map that shows every setting. Keep the lines that fit: which
   columns name an episode, what was known before the decision (observation), what was decided (action), what came of
   it (reward), and how an episode ends.
2. ``offrl data import logs.parquet --map map.yaml``. What the map does not allow for is refused with file, row and
   column, and nothing is written; so nothing has to be guessed in the first map. Say what stands in for missing values
   (``missing: [last, mean]``, and ``indicator`` where being unmeasured says something), which actions of a choice were
   legal (``action_mask``, what was known before the action, as the observation was), whether rows are in order
   (``order: sort`` if not), and from which gap in time on an episode is two (``gap: 12h``).
3. Read the sentences that follow: what was filled in, cut, dropped, clipped. They stay with the dataset.
4. ``offrl data report NAME`` says what can be learned from it; ``offrl ope --data NAME --by site`` estimates by the
   columns under ``groups``, and ``--time charttime --time_unit h --discount 0.98`` discounts by the hour.

Three things a map cannot put right: an observation that was written down after the action (a result that came later, a
discharge code), a reward that counts the same outcome in every row, and a propensity that is not that of the decision.

Inside:

    mapping        the map, checked before any log is opened; `EXAMPLE` shows every setting
    mask_setting   its setting ``action_mask``
    units          conversions
    files          pieces of a file
    values         cells to numbers
    masks          cells to masks of legal actions
    tables         rows as numbers; means, categories and bounds of the whole log
    order          rows brought in order on disk
    assemble       rows to episodes
    notes          what happened on the way, in sentences

Nothing holds a whole log: memory is one piece of 65,536 rows, the longest episode, and 8 bytes for each episode.
`lightning_offrl.data.logs.import_logs` writes what comes out as a Minari dataset.
"""

from lightning_offrl.data.logs.mapping import EXAMPLE, LogMap, parse_map, read_map

__all__ = ["EXAMPLE", "LogMap", "parse_map", "read_map"]
