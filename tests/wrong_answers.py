"""Wrong answers to the exercises of the tutorials: tutorial -> number of the exercise -> code that must not pass its check."""

WRONG: dict[str, dict[int, list[str]]] = {
    "00_tour": {
        1: ["def answer_1(number, decibel): return number / 100, 10 ** (decibel / 10)",           # percent
            "def answer_1(number, decibel): return number / 10000, 10 ** (decibel / 20)",         # amplitude
            "def answer_1(number, decibel): return number / 10000, decibel / 10"],
        2: ["answer_2 = (next(i for i, s in enumerate(copies) if not find_problems(s)), tile)",
            "answer_2 = (next(i for i, s in enumerate(copies) if find_problems(s)), next(s for s in copies if find_problems(s)))",
            "k = next(i for i, s in enumerate(copies) if find_problems(s)); answer_2 = (k, replace(copies[k], arrays={**copies[k].arrays, 'sentinel1': 20 * np.log10(copies[k].arrays['sentinel1'])}))"],
        3: ["answer_3 = 3", "answer_3 = 8", "answer_3 = 10", "answer_3 = 12"],
        4: ["answer_4 = 256 * 13", "answer_4 = 256 * 30", "answer_4 = 256 * 24", "answer_4 = 64 * 25"]},
    "05_benchmark": {
        1: ["answer_1 = 12", "answer_1 = 25"],
        2: ["def answer_2(low, high): return 'better' if low + high > 0 else 'worse'",           # the middle of the interval decides
            "def answer_2(low, high): return 'better' if high > 0 else 'worse'"]},
}
