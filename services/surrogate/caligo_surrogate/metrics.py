"""What the surrogate counts and holds; how long it thinks, its calls' durations say."""

from prometheus_client import Counter, Gauge, Info

MODELS = Gauge("caligo_surrogate_models", "Campaigns whose model is held.")
ROWS_HELD = Gauge("caligo_surrogate_rows_held", "Result rows in all models.")
BYTES_HELD = Gauge("caligo_surrogate_bytes_held", "Memory that the models hold, on the device or beside it.")
BUDGET = Gauge("caligo_surrogate_memory_budget_bytes", "Memory that the models may hold before one is forgotten.")
FORGOTTEN = Counter("caligo_surrogate_models_forgotten", "Models forgotten to make room.")
DEVICE = Info("caligo_surrogate_device", "Where models live.")
SOLVED = Counter(
    "caligo_surrogate_sound_answers",
    "Answers that were sound, by task and by the rung of the ladder of solvers that gave them; 0 is the weakest.",
    ["task", "rung"],
)
UNSOUND = Counter(
    "caligo_surrogate_unsound_answers",
    "Answers that could not be right and were not used, by task and what gave them away.",
    ["task", "kind"],
)
FAILURES = Counter("caligo_surrogate_unsolved", "Tasks for which no solver gave a sound answer.", ["task"])
HALVINGS = Counter("caligo_surrogate_chunks_halved", "Pieces of a prediction that did not fit into memory.")
