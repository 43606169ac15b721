"""Pictures and pages made from results: one self-contained HTML file that opens anywhere."""
