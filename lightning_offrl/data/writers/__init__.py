"""What writes datasets: Minari's layout, conversion, collection."""
