"""What the sampler counts."""

from prometheus_client import Counter

ROWS = Counter("caligo_sampler_rows", "Rows made (designed) or scored for others (checked).", ["work"])
