"""What the recipes and the command line share: settings, one run, many runs."""
