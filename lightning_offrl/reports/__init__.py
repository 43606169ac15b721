"""Figures and reports made from results: one self-contained HTML file that opens anywhere."""
