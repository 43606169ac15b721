"""The report on a dataset: measures, findings, advice, and the document."""
