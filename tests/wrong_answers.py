"""Wrong answers to the exercises of the tutorials: tutorial -> number of the exercise -> code that must not pass its check."""

WRONG: dict[str, dict[int, list[str]]] = {
    "05_benchmark": {
        1: ["answer_1 = 12", "answer_1 = 25"],
        2: ["def answer_2(low, high): return 'better' if low + high > 0 else 'worse'",           # the middle of the interval decides
            "def answer_2(low, high): return 'better' if high > 0 else 'worse'"]},
    "08_when_it_fails": {
        1: ["answer_1 = {'A': 'stagnation', 'B': 'collapse', 'C': 'overfitting'}",                # the lowest loss is taken for overfitting
            "answer_1 = {'A': 'collapse', 'B': 'overfitting', 'C': 'stagnation'}",                # a flat curve is taken for collapse
            "answer_1 = {'A': 'stagnation', 'B': 'stagnation', 'C': 'stagnation'}"],
        2: ["answer_2 = {'target': 'momentum'}",                                                  # slower, on the same way
            "answer_2 = {'target': 'frozen', 'lr': 1e-3}",                                        # two changes
            "answer_2 = {'brake': True}"],
        3: ["answer_3 = {'steps': 80}", "answer_3 = {'learning_rate': 3e-3}"],
        4: ["answer_4 = {'steps': 20}",                                                           # stops before anything is learned
            "answer_4 = {'squares': 0}"]},
}
