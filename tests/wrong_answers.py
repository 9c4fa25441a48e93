"""Wrong answers to the exercises of the tutorials: tutorial -> number of the exercise -> code that must not pass its check."""

WRONG: dict[str, dict[int, list[str]]] = {
    "05_benchmark": {
        1: ["answer_1 = 12", "answer_1 = 25"],
        2: ["def answer_2(low, high): return 'better' if low + high > 0 else 'worse'",           # the middle of the interval decides
            "def answer_2(low, high): return 'better' if high > 0 else 'worse'"]},
}
