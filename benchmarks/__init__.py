"""One file a claim; `python -m benchmarks.NAME --json` ends with one JSON object."""
