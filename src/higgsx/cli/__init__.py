"""The command line: one file per verb; parse, one public call, print."""
