"""Networks: plain modules that work for one run, for N ensemble members and for S stacked seeds alike."""
