"""Reports: one HTML file with pictures about one or several runs."""
